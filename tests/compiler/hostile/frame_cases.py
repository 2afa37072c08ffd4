"""Bytes that are no blueprint: broken JSON, other formats, values of other types, sizes beyond."""

import gzip
import json
from collections.abc import Iterator
from typing import Any, Final

from tests.compiler.hostile.corpus import UNDECODABLE, Hostile, letter, letter_of, node

SOUND: Final = letter()
DEEP: Final = 100_000

BYTES: Final[dict[str, bytes]] = {
    "empty": b"",
    "white-space": b" \n\t ",
    "null-byte": b"\x00",
    "not-utf8": b"\xff\xfe not json",
    "latin-1": '{"blueprint_id": "é"}'.encode("latin-1"),
    "utf-16": SOUND.decode().encode("utf-16"),
    "utf-32": SOUND.decode().encode("utf-32"),
    "gzip": gzip.compress(SOUND, mtime=0),
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "zip-of-a-torch-file": b"PK\x03\x04archive/data.pkl",
    "yaml": b"blueprint_id: hostile\nkind: feature_map\n",
    "yaml-object": b"!!python/object/apply:os.system ['true']",
    "xml-entities": b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    "python": b"__import__('os').system('true')",
    "single-quotes": SOUND.replace(b'"', b"'"),
    "comment": b"/* sound */" + SOUND,
    "trailing-comma": SOUND[:-1] + b",}",
    "two-documents": SOUND + SOUND,
    "trailing-garbage": SOUND + b" garbage",
    "leading-garbage": b")]}'," + SOUND,
    "control-character-in-a-string": SOUND.replace(b"hostile", b"host\x01ile"),
    "lone-surrogate": SOUND.replace(b"hostile", b"\\ud800"),
    "bad-escape": SOUND.replace(b"hostile", b"\\x41"),
    "deep-arrays": b"[" * DEEP,
    "deep-arrays-closed": b"[" * DEEP + b"]" * DEEP,
    "deep-objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep-unknown-field": SOUND[:-1] + b', "extra": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep-nodes": SOUND.replace(b'"nodes": [', b'"nodes": [' + b"[" * DEEP),
    "deep-argument": SOUND.replace(b'"C"', b"[" * DEEP + b"]" * DEEP),
    **{f"only-{name}": name.encode() for name in ("null", "true", "1", '"a"', "[]", "{}", "NaN")},
    **{f"cut-at-{tenth}0-percent": SOUND[: len(SOUND) * tenth // 10] for tenth in range(1, 10)},
}

CONSTANTS: Final = {
    "nan": "NaN",
    "infinity": "Infinity",
    "minus-infinity": "-Infinity",
    "float-overflow": "1e400",
    "minus-float-overflow": "-1e400",
    "int-of-400-digits": "1" + "0" * 400,
    "int-of-100000-digits": "9" * 100_000,
    "hexadecimal": "0x10",
    "octal": "010",
    "underscores": "1_000",
    "plus-sign": "+1",
    "bare-dot": "1.",
    "null": "null",
    "object": '{"out": 8}',
    "nested-list": "[[8]]",
    "list-of-null": "[null]",
    "list-of-float": "[0.5]",
    "list-of-bool": "[true]",
    "long-expression": '"' + "C+" * 40 + 'C"',
    "megabyte-expression": '"' + "C" * 1_000_000 + '"',
}
"""What stands in the place of a size, as it is written."""

FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "blueprint_id": (..., None, 7, True, [], {}, ["hostile"]),
    "kind": (..., None, 0, "", "Vector", "image", {}, [], ["vector", "image"], [["vector"]]),
    "summary": (None, 7, [], "s" * 301, "s" * 1_000_000),
    "category": (None, 7, []),
    "nodes": (..., None, 7, "mix", {}, [], [None], [7], ["mix"], [[]], [{}]),
    "output": (..., None, 7, [], ["mix"], {}),
    "parameters": (None, 7, [], "rank", {"rank": 8}, {"rank": []}, {"rank": {"default": None}}),
    "values": (None, 7, [], {"rank": None}, {"rank": 0.5}, {"rank": "8"}, {"rank": True}),
}

NODE_FIELDS: Final[dict[str, tuple[Any, ...]]] = {
    "id": (..., None, 7, True, [], {}),
    "op": (..., None, 7, True, [], {}, "o" * 33, "o" * 1_000_000),
    "inputs": (..., None, 7, "h", {}, [], [None], [7], [["h"]], ["h"] * 9),
    "args": (None, 7, "out", [], ["out"], {f"a{number}": 1 for number in range(17)}),
}


MEGABYTE: Final = 1_000_000
FLOODS: Final = {
    "empty-nodes": letter(nodes=[{}] * (MEGABYTE // 4)),
    "null-nodes": letter(nodes=[None] * (MEGABYTE // 6)),
    "sound-nodes": letter(nodes=[node("a", "relu", "h")] * (MEGABYTE // 55)),
    "inputs": letter(nodes=[node("a", "relu", *[1] * (MEGABYTE // 3))]),
    "sizes": letter(nodes=[node("a", "reshape", "h", shape=[None] * (MEGABYTE // 6))]),
    "kinds": letter(kind=["image"] * (MEGABYTE // 9)),
    "inputs-of-128-nodes": letter(nodes=[node("a", "relu", *[1] * (MEGABYTE // 400))] * 128),
    "arguments": letter(nodes=[node("a", "relu", "h", **{f"a{n}": 1 for n in range(70_000)})]),
    "parameters": letter(parameters={f"a{n}": {"default": 1} for n in range(40_000)}),
}
"""One fault, over and over, in as many bytes as the broker takes."""


def family() -> Iterator[Hostile]:
    """Yield everything that the codec must refuse for its form."""
    for name, value in FLOODS.items():
        yield Hostile(f"flood/{name}", value, UNDECODABLE)
    for name, value in BYTES.items():
        yield Hostile(f"bytes/{name}", value, UNDECODABLE)
    for name, constant in CONSTANTS.items():
        value = SOUND.replace(b'"C"', constant.encode())
        yield Hostile(f"constant/{name}", value, UNDECODABLE)
    for field, values in FIELDS.items():
        for number, value in enumerate(values):
            yield Hostile(f"field/{field}-{number}", letter(**{field: value}), UNDECODABLE)
    for field, values in NODE_FIELDS.items():
        for number, value in enumerate(values):
            changed = node("mix", "conv2d", "h", out="C") | {field: value}
            kept = {name: held for name, held in changed.items() if held is not ...}
            yield Hostile(f"node-field/{field}-{number}", letter(nodes=[kept]), UNDECODABLE)
    too_many = [node(f"n{number}", "relu", "h") for number in range(129)]
    yield Hostile("field/129-nodes", letter_of(*too_many), UNDECODABLE)
    yield Hostile("field/parameters-beyond", _with_parameters(1000), UNDECODABLE)


def _with_parameters(count: int) -> bytes:
    rows = {f"p{number}": {"default": 1, "least": 1, "most": 2} for number in range(count)}
    return json.dumps(json.loads(SOUND) | {"parameters": rows}).encode()
