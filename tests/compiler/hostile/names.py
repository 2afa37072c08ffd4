"""Names that would be a path, a command, a format or a look-alike, wherever a name may stand."""

from collections.abc import Callable, Iterator
from typing import Final

from tests.compiler.hostile.corpus import UNDECODABLE, Hostile, letter, letter_of, node

NAMES: Final = {
    "empty": "",
    "space": " ",
    "parent-folder": "../../etc/passwd",
    "absolute-path": "/etc/passwd",
    "windows-path": "..\\..\\boot.ini",
    "drive": "c:autoexec",
    "encoded-path": "%2e%2e%2fpasswd",
    "home": "~root",
    "hidden": ".profile",
    "option": "-rf",
    "url": "file:///etc/passwd",
    "null-byte": "mix\x00.json",
    "new-line": "mix\nmix",
    "new-line-at-the-end": "mix\n",
    "carriage-return": "mix\r",
    "tab": "mi\tx",
    "escape": "mix\x1b[2J",
    "delete": "mix\x7f",
    "command": "$(true)",
    "backquotes": "`true`",
    "semicolon": ";import os",
    "dunder": "__class__",
    "dunder-init": "__init__",
    "format": "{0.__class__}",
    "percent": "%s%n",
    "html": "<script>",
    "sql": "'; drop table kernels; --",
    "template": "{{7*7}}",
    "capitals": "Mix",
    "full-width": "\uff4d\uff49\uff58",
    "cyrillic": "\u043c\u0456\u0445",
    "accent": "mi\u0301x",
    "zero-width": "mi\u200bx",
    "right-to-left": "\u202exim",
    "byte-order-mark": "\ufeffmix",
    "line-separator": "mix\u2028",
    "arabic-digit": "mix\u0661",
    "emoji": "\U0001f525",
    "equals": "out=1,exec",
    "too-long": "m" * 65,
    "a-megabyte": "m" * 1_000_000,
}

PLACES: Final[dict[str, Callable[[str], bytes]]] = {
    "blueprint-id": lambda name: letter(blueprint_id=name),
    "category": lambda name: letter(category=name),
    "node": lambda name: letter_of(node(name, "conv2d", "h", out="C")),
    "input": lambda name: letter_of(node("mix", "conv2d", name, out="C")),
    "argument": lambda name: letter_of(node("mix", "conv2d", "h", out="C", **{name: 1})),
    "output": lambda name: letter(output=name),
    "parameter": lambda name: letter(parameters={name: {"default": 1, "least": 1, "most": 2}}),
    "value": lambda name: letter(values={name: 1}),
}


def family() -> Iterator[Hostile]:
    """Yield every bad name in every place; no place but that of the op takes any of them."""
    for place, put in PLACES.items():
        for name, text in NAMES.items():
            yield Hostile(f"name/{place}-{name}", put(text), UNDECODABLE)
    for name, text in NAMES.items():
        expected = "unknown-op" if len(text) <= 32 else UNDECODABLE
        yield Hostile(f"name/op-{name}", letter_of(node("mix", text, "h")), expected)
