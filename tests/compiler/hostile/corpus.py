"""The hostile corpus: hand-made lines of `*.jsonl`, and families generated from rules.

Each has a name, the bytes that would arrive on `blueprint-submitted`, the site they would be
compiled for, and the code that must come back: a `RejectionCode`, or `UNDECODABLE` for what is no
blueprint at all and goes to the dead letters.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from esper.topics.models import SiteKind, SiteSignature

UNDECODABLE: Final = "undecodable"

MAP: Final = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(4, 8, 8), h=(8, 8, 8))
SITES: Final = {
    "map": MAP,
    "big-map": SiteSignature(kind=SiteKind.FEATURE_MAP, x=(64, 512, 512), h=(64, 512, 512)),
    "vector": SiteSignature(kind=SiteKind.VECTOR, x=(24,), h=(16,)),
    "wide": SiteSignature(kind=SiteKind.VECTOR, x=(65536,), h=(65536,)),
    "half": SiteSignature(kind=SiteKind.VECTOR, x=(24,), h=(16,), dtype="float16"),
    "sequence": SiteSignature(kind=SiteKind.SEQUENCE, x=(12, 16), h=(12, 16)),
    "long": SiteSignature(kind=SiteKind.SEQUENCE, x=(65536, 8), h=(65536, 8)),
}
"""Where hostile blueprints are compiled, by the name that a line gives."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One hostile message; `slow` ones are meant to run into a limit of time or memory."""

    name: str
    value: bytes
    expected: str
    site: SiteSignature = MAP
    slow: bool = False


@cache
def corpus() -> tuple[Hostile, ...]:
    """Return the whole corpus; every name is unique."""
    from tests.compiler.hostile import frame_cases, graphs, names

    entries = [*hand_made(), *frame_cases.family(), *names.family(), *graphs.family()]
    assert len({entry.name for entry in entries}) == len(entries)
    return tuple(entries)


def hand_made() -> Iterator[Hostile]:
    """Yield the lines of the JSONL files beside this one."""
    for file in sorted(Path(__file__).parent.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            yield _entry(file.stem, json.loads(line))


def _entry(family: str, line: dict[str, Any]) -> Hostile:
    blueprint = {"blueprint_id": "hostile", "kind": "feature_map"} | line["blueprint"]
    return Hostile(
        name=f"{family}/{line['name']}",
        value=json.dumps(blueprint).encode(),
        expected=line["expected"],
        site=SITES[line.get("site", "map")],
        slow=line.get("slow", False),
    )


def letter(**changes: Any) -> bytes:
    """Return a sound blueprint as JSON with fields changed, or left out where they are `...`."""
    node = {"id": "mix", "op": "conv2d", "inputs": ["h"], "args": {"out": "C", "kernel": 3}}
    sound = {"blueprint_id": "hostile", "kind": "feature_map", "nodes": [node], "output": "mix"}
    fields = sound | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def letter_of(*nodes: dict[str, Any], **changes: Any) -> bytes:
    """Return a blueprint of these nodes whose last one is the output."""
    return letter(**{"nodes": nodes, "output": nodes[-1]["id"]} | changes)


def node(id: Any, op: Any, *inputs: Any, **args: Any) -> dict[str, Any]:
    """Return a node as JSON takes it, whatever is in it."""
    return {"id": id, "op": op, "inputs": list(inputs), "args": args}
