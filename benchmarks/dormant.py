"""A dormant site against the plain layer: forward and backward on very small layers.

Three other designs of an empty seed are measured for comparison.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.result import Figure, Goal, Measurement, ratio
from benchmarks.threads import one_thread
from benchmarks.timing import interleaved, scaled
from esper.blueprint import shipped
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import Kernel
from esper.seed import Seed, Site, find_sites

GOAL: Final = Goal(sense="at most", limit=1.005)
BATCH: Final = 8
ROUNDS: Final = 1500
QUICK_ROUNDS: Final = 20
REPEATS: Final = 8

LAYERS: Final[dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]] = {
    "linear": (lambda: nn.Linear(8, 8), (8,)),
    "conv": (lambda: nn.Conv2d(4, 4, 3, padding=1), (4, 8, 8)),
}
"""The measured layers, with their input shapes."""


class CheckingWrapper(nn.Module):
    """For comparison: a wrapper that checks on each call whether it has a seed."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.seed: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        h: Tensor = self.layer(x)
        return h if self.seed is None else h + self.seed(h)


class AlwaysBlending(nn.Module):
    """For comparison: a blend with a kernel of zeros on each call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output plus alpha times zero."""
        h: Tensor = self.layer(x)
        return h + self.alpha * torch.zeros_like(h)


def run(quick: bool = False) -> Measurement:
    """Measure both layers."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with one_thread():
        figures = [entry for name in LAYERS for entry in _layer(name, rounds)]
    return Measurement(
        parameters={"batch": BATCH, "rounds": rounds, "calls_a_round": REPEATS},
        figures=tuple(figures),
    )


def _layer(name: str, rounds: int) -> list[Figure]:
    make, shape = LAYERS[name]
    x = torch.randn(BATCH, *shape, requires_grad=True)
    seconds = interleaved(
        {variant: _pass(layer, x) for variant, layer in _variants(make, shape).items()},
        rounds=rounds,
        repeats=REPEATS,
    )
    micros = {variant: scaled(values, 1e6) for variant, values in seconds.items()}
    plain = ("plain_us", micros.pop("plain"))
    return [
        ratio(
            f"{name}-{variant}",
            f"{name}: {TITLES[variant]} ÷ plain layer",
            (f"{variant}_us", values),
            plain,
            goal=GOAL if variant in ("dormant", "emptied") else None,
        )
        for variant, values in micros.items()
    ]


TITLES: Final = {
    "twin": "a second plain layer (the resolution of this measurement)",
    "dormant": "dormant site",
    "emptied": "dormant site after a kernel was planted and removed",
    "wrapper": "a wrapper that checks for a seed",
    "hook": "a forward hook that does nothing",
    "blend": "a blend that always runs",
}


def _variants(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, nn.Module]:
    hooked = make()
    hooked.register_forward_hook(lambda module, inputs, output: None)
    return {
        "plain": make(),
        "twin": make(),
        "dormant": _site(make(), shape).layer,
        "emptied": _emptied(_site(make(), shape)),
        "wrapper": CheckingWrapper(make()),
        "hook": hooked,
        "blend": AlwaysBlending(make()),
    }


def _site(layer: nn.Module, shape: tuple[int, ...]) -> Site:
    return find_sites(nn.Sequential(layer), ["0"], torch.zeros(1, *shape), slots=2)["0"]


def _emptied(site: Site) -> nn.Module:
    kind = site.signature.kind
    blueprint = next(entry for entry in shipped() if kind in entry.kinds)
    plan = BlueprintCompiler().compile(blueprint, site.signature)
    site.plant(0, Seed(Kernel(plan, initial_tensors(plan), sha256="")))
    site.remove(0)
    return site.layer


def _pass(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    wanted = (x, *layer.parameters())
    output = layer(x)
    ones = torch.ones_like(output)
    return lambda: torch.autograd.grad(layer(x), wanted, ones)
