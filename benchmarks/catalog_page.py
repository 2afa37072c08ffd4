"""Render `docs/catalog.md`: purpose and cost of every shipped blueprint.

Sizes and FLOPs come from the blueprints, times and memory from the saved result.
"""

from benchmarks.kept import kept_result
from benchmarks.kernel_costs import SITES, key_of, site_of, size_of
from benchmarks.origin import ROOT
from benchmarks.page import commit_of, machine_of, middle_half, number, table
from benchmarks.result import Result
from esper.blueprint import resolve, shipped
from esper.compiler import host_flops
from esper.topics.models import Blueprint, SiteKind, SiteSignature

DOCUMENT = ROOT / "docs" / "catalog.md"
NAME = "catalog"

HEAD = """# The shipped blueprints

Rendered by `python -m benchmarks figures` from the catalog and `benchmarks/results/catalog.json`;
do not edit. To measure again, on a machine without other work:
`python -m benchmarks catalog --save`, then render. [Write your own](blueprints.md).

A kernel is compared with a typical layer of its site: `Linear` for vectors and sequences, a 3x3
`Conv2d` for feature maps, of the same width. FLOPs are per sample, forward only. ÷ layer is the
kernel's value over the layer's: FLOPs, median time of forward and backward on one CPU thread, and
peak of live memory without weights and inputs. On small sites calling an op takes longer than
computing it, so that the time counts the ops.
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
    """Return the document.

    Raises:
        BenchmarkError: no result is saved.
    """
    result = kept_result(NAME)
    return "\n".join([HEAD, _purposes(), *(_costs(kind, result) for kind in SiteKind)])


def _purposes() -> str:
    rows = [
        (
            f"`{blueprint.blueprint_id}`",
            ", ".join(blueprint.kinds),
            _family(blueprint),
            blueprint.summary,
        )
        for blueprint in shipped()
    ]
    return f"## Purpose\n\n{table(('blueprint', 'kinds', 'family', 'summary'), rows)}"


def _family(blueprint: Blueprint) -> str:
    """Return the named parameters, as `rank = D//8`, 1 to 512."""
    return "<br>".join(
        f"`{name}` = `{parameter.default}`, {parameter.least} to {parameter.most}"
        for name, parameter in blueprint.parameters.items()
    )


def _costs(kind: SiteKind, result: Result) -> str:
    rows = [
        _row(blueprint, site_of(kind, shape), result)
        for blueprint in shipped()
        if kind in blueprint.kinds
        for shape in SITES[kind]
    ]
    origin = f"Measured at commit {commit_of(result)}; {machine_of(result)}."
    return f"## {KIND_NAMES[kind]}\n\n{origin}\n\n{table(COSTS, rows)}"


def _row(blueprint: Blueprint, site: SiteSignature, result: Result) -> tuple[str, ...]:
    resolved = resolve(blueprint, site)
    measured = {figure.key: figure for figure in result.figures}
    latency, memory = (
        measured.get(key_of(blueprint, site, quantity)) for quantity in ("latency", "memory")
    )
    return (
        f"`{blueprint.blueprint_id}`",
        size_of(site),
        f"{resolved.params:,}",
        f"{resolved.flops:,}",
        number(resolved.flops / host_flops(site)),
        f"{number(latency.median)} ({middle_half(latency)})" if latency else "not measured",
        number(memory.median) if memory else "not measured",
    )
