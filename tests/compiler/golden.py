"""The very bytes: the SHA-256 of every shipped blueprint's artifact, at a few sites of each kind.

`python -m tests.compiler.golden` compares what this machine, Python and torch make with the
committed file, prints the differences and exits 1 if there are any. `--renew` rewrites the file.
Do that only after `COMPILER_VERSION` was raised, for whatever changes these bytes changes what a
kernel id promises; or where a blueprint was added, removed or itself changed, for then its kernel
ids changed as well.
"""

import sys
from pathlib import Path
from typing import Any, Final

import orjson

from esper.blueprint import COMPILER_VERSION, request_for, shipped
from esper.compiler.build import compile_kernel
from esper.compiler.results import Compiled
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import Blueprint, SiteKind, SiteSignature

FILE: Final = Path(__file__).parent / "golden_bytes.json"

SITES: Final = {
    "vector 16": SiteSignature(kind=SiteKind.VECTOR, x=(16,), h=(16,)),
    "vector 48 to 20, half": SiteSignature(kind=SiteKind.VECTOR, x=(48,), h=(20,), dtype="float16"),
    "sequence 12x16": SiteSignature(kind=SiteKind.SEQUENCE, x=(12, 16), h=(12, 16)),
    "sequence 7x10 to 7x18, on a GPU": SiteSignature(
        kind=SiteKind.SEQUENCE, x=(7, 10), h=(7, 18), dtype="bfloat16", device="cuda"
    ),
    "map 8x8x8": SiteSignature(kind=SiteKind.FEATURE_MAP, x=(8, 8, 8), h=(8, 8, 8)),
    "map 3x11x9 to 20x6x5": SiteSignature(
        kind=SiteKind.FEATURE_MAP, x=(3, 11, 9), h=(20, 6, 5), device="cuda"
    ),
}


def digests(*, backwards: bool = False) -> dict[str, str]:
    """Return the digest of each artifact by `<blueprint> at <site>`.

    `backwards` reads every JSON object with its keys in the opposite order: no bytes may change.
    """
    blueprints = [_read(blueprint, backwards) for blueprint in shipped()]
    return {
        f"{blueprint.blueprint_id} at {name}": _digest(blueprint, site)
        for blueprint in blueprints
        for name, site in SITES.items()
        if site.kind in blueprint.kinds
    }


def committed() -> dict[str, Any]:
    """Return what the file says: the compiler's version, and the digests."""
    found: dict[str, Any] = orjson.loads(FILE.read_bytes())
    return found


def differences(found: dict[str, str]) -> list[str]:
    """Return a line for each artifact that is not as committed."""
    expected = committed()["sha256"]
    return [
        f"{name}: {expected.get(name, 'not')} committed, {found.get(name, 'not')} made"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def _digest(blueprint: Blueprint, site: SiteSignature) -> str:
    compiled = compile_kernel(request_for(blueprint, site))
    # A site at which an entry cannot be is as binding as its bytes.
    return sha256_of(compiled.artifact) if isinstance(compiled, Compiled) else compiled.code.value


def _read(blueprint: Blueprint, backwards: bool) -> Blueprint:
    value = encode(blueprint)
    return decode(Blueprint, orjson.dumps(_turned(orjson.loads(value))) if backwards else value)


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _turned(held) for key, held in reversed(value.items())}
    return [_turned(member) for member in value] if isinstance(value, list) else value


def main(arguments: list[str]) -> int:
    """Compare, or write; return the exit status."""
    found = digests()
    if arguments == ["--renew"]:
        content = {"compiler_version": COMPILER_VERSION, "sha256": found}
        FILE.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
        return 0
    if arguments:
        print("usage: python -m tests.compiler.golden [--renew]", file=sys.stderr)
        return 2
    lines = differences(found)
    print("\n".join(lines) or f"{len(found)} artifacts are the committed bytes")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
