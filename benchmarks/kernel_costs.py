"""Cost of each shipped kernel against a layer of its host, as the validator measures it.

The figures are those of the characterisation in `kernel-compiled`: one thread, batch of two to
four, forward and backward, kernel and layer interleaved. `docs/catalog.md` shows them.
"""

from typing import Final

from benchmarks.result import BenchmarkError, Figure, Measurement, ratio
from benchmarks.threads import one_thread
from esper.blueprint import request_for, shipped
from esper.compiler import Built, build_kernel
from esper.topics.models import Blueprint, Characterisation, SiteKind, SiteSignature

ROUNDS: Final = 15
SITES: Final = {
    SiteKind.VECTOR: ((32,), (256,)),
    SiteKind.SEQUENCE: ((16, 32), (64, 128)),
    SiteKind.FEATURE_MAP: ((8, 8, 8), (64, 32, 32)),
}
"""A small and a larger site of each kind; input and output have the same shape."""


def run(quick: bool = False) -> Measurement:
    """Return latency and memory, kernel ÷ layer, of every shipped blueprint at sites of its kinds.

    Raises:
        BenchmarkError: the compiler rejects a shipped blueprint.
    """
    rounds = 1 if quick else ROUNDS
    with one_thread():
        figures = [
            entry
            for blueprint in shipped()
            for kind in blueprint.kinds
            for shape in SITES[kind][: 1 if quick else None]
            for entry in _figures(blueprint, site_of(kind, shape), rounds)
        ]
    return Measurement(parameters={"rounds": rounds}, figures=tuple(figures))


def site_of(kind: SiteKind, shape: tuple[int, ...]) -> SiteSignature:
    """Return the site of a kind and shape."""
    return SiteSignature(kind=kind, x=shape, h=shape)


def key_of(blueprint: Blueprint, site: SiteSignature, quantity: str) -> str:
    """Return the key of a figure; `quantity` is latency or memory."""
    return f"{blueprint.blueprint_id}-{site.kind}-{size_of(site)}-{quantity}"


def size_of(site: SiteSignature) -> str:
    """Return the shape of a site as `64x32x32`."""
    return "x".join(map(str, site.h))


def _figures(blueprint: Blueprint, site: SiteSignature, rounds: int) -> tuple[Figure, Figure]:
    measured = [_characterised(blueprint, site) for _ in range(rounds)]
    name = f"{blueprint.blueprint_id} at {site.kind} {size_of(site)}"
    return (
        ratio(
            key_of(blueprint, site, "latency"),
            f"{name}: time forward and backward, kernel ÷ layer of the host",
            ("kernel_ms", [run.forward_ms + run.backward_ms for run in measured]),
            ("layer_ms", [_layer_ms(run) for run in measured]),
        ),
        ratio(
            key_of(blueprint, site, "memory"),
            f"{name}: peak of live bytes, kernel ÷ layer of the host",
            ("kernel_bytes", [run.peak_bytes for run in measured]),
            ("layer_bytes", [run.host_peak_bytes or 1 for run in measured]),
        ),
    )


def _characterised(blueprint: Blueprint, site: SiteSignature) -> Characterisation:
    outcome = build_kernel(request_for(blueprint, site))
    if not isinstance(outcome, Built):
        raise BenchmarkError(f"{blueprint.blueprint_id} was rejected: {outcome.reason}")
    return outcome.characterisation


def _layer_ms(measured: Characterisation) -> float:
    """Return the time of the layer; all sites above are small enough for one to be measured."""
    return (measured.host_forward_ms or 0) + (measured.host_backward_ms or 0)
