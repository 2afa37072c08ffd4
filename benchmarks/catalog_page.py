"""Rendering `docs/catalog.md`: what ships, what it is for, and what it costs.

Sizes and FLOPs come from the blueprints themselves, times and memory from the kept result.
"""

from benchmarks.catalog_table import SITES, key_of, site_of, size_of
from benchmarks.figures import kept_result, number, table
from benchmarks.origin import ROOT
from benchmarks.result import Result
from esper.blueprint import resolve, shipped
from esper.compiler import host_flops
from esper.topics.models import Blueprint, SiteKind, SiteSignature

DOCUMENT = ROOT / "docs" / "catalog.md"
NAME = "catalog"

HEAD = """# The shipped blueprints

Rendered by `python -m benchmarks figures` from the catalog and `benchmarks/results/catalog.json`;
do not edit. To measure anew, on a machine that does nothing else:
`python -m benchmarks catalog --save`, then render. [Write your own](blueprints.md).

A kernel is compared with a layer such as its host would have at the site: `Linear` for vectors and
sequences, a 3x3 `Conv2d` for feature maps, of the same width. FLOPs are of one sample going
forward; ÷ layer is the kernel's over the layer's: FLOPs, median time forward and backward on one
thread of a CPU, and the peak of live memory beyond weights and inputs. On small sites time is that
of calling ops, so that it counts how many there are.
"""

KIND_NAMES = {
    SiteKind.VECTOR: "Vectors (D,)",
    SiteKind.SEQUENCE: "Sequences (T, D)",
    SiteKind.FEATURE_MAP: "Feature maps (C, H, W)",
}

COSTS = (
    *("blueprint", "site", "parameters", "FLOPs"),
    *("FLOPs ÷ layer", "time ÷ layer", "memory ÷ layer"),
)


def render() -> str:
    """Return the whole document.

    Raises:
        BenchmarkError: there is no result, or it lacks an entry of the catalog.
    """
    result = kept_result(NAME)
    return "\n".join([HEAD, _what_they_are(), *(_costs(kind, result) for kind in SiteKind)])


def _what_they_are() -> str:
    rows = [
        (
            f"`{blueprint.blueprint_id}`",
            ", ".join(blueprint.kinds),
            _family(blueprint),
            blueprint.summary,
        )
        for blueprint in shipped()
    ]
    return f"## What they are for\n\n{table(('blueprint', 'kinds', 'family', 'what it is'), rows)}"


def _family(blueprint: Blueprint) -> str:
    """Return the named parameters as `rank = D//8 (1 to 512)`."""
    return "<br>".join(
        f"`{name}` = `{each.default}`, {each.least} to {each.most}"
        for name, each in blueprint.parameters.items()
    )


def _costs(kind: SiteKind, result: Result) -> str:
    rows = [
        _row(blueprint, site_of(kind, shape), result)
        for blueprint in shipped()
        if kind in blueprint.kinds
        for shape in SITES[kind]
    ]
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    changed = ", with changes not in it" if result.modified else ""
    origin = f"Measured at commit {result.commit}{changed}; {machine}."
    return f"## {KIND_NAMES[kind]}\n\n{origin}\n\n{table(COSTS, rows)}"


def _row(blueprint: Blueprint, site: SiteSignature, result: Result) -> tuple[str, ...]:
    resolved = resolve(blueprint, site)
    latency, memory = (
        result.figure(key_of(blueprint, site, what)) for what in ("latency", "memory")
    )
    low, high = (number(bound) for bound in latency.spread)
    return (
        f"`{blueprint.blueprint_id}`",
        size_of(site),
        f"{resolved.params:,}",
        f"{resolved.flops:,}",
        number(resolved.flops / host_flops(site)),
        f"{number(latency.median)} ({low} to {high})",
        number(memory.median),
    )
