"""The executor against the same network as a plain `nn.Module`: forward and backward, on the CPU.

Both run in turn on the same inputs and weights, one thread; each pair gives one ratio, so that
what disturbs the machine disturbs both. The plain module is the source that Esper exports.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.result import RATIO, Figure, Goal, Measured, figure, ratio
from benchmarks.threads import one_thread
from benchmarks.timing import in_turn, scaled
from esper.blueprint import shipped
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.compiler.initialise import initial_tensors
from esper.kernel import Kernel, Plan, to_source
from esper.kernel.source import IMPORTS
from topics.models import Blueprint, SiteKind, SiteSignature

GOAL: Final = Goal(sense="at most", limit=1.00)
BATCH: Final = 32
PAIRS: Final = 400
QUICK_PAIRS: Final = 30
SHAPES: Final = {
    SiteKind.VECTOR: ((16,), (64,), (256,)),
    SiteKind.FEATURE_MAP: ((8, 8, 8), (16, 16, 16)),
}


def run(quick: bool = False) -> Measured:
    """Return kernel time ÷ plain time for every shipped blueprint at sites of several sizes."""
    pairs = QUICK_PAIRS if quick else PAIRS
    with one_thread():
        cases = [
            _case(blueprint, shape, pairs)
            for blueprint in shipped()
            for shape in SHAPES[blueprint.kind]
        ]
    return Measured(
        parameters={"batch": BATCH, "pairs": pairs},
        figures=(
            figure(
                "kernel-over-plain",
                "kernel ÷ the same network as a plain nn.Module: medians of all cases below",
                RATIO,
                [case.median for case in cases],
                goal=GOAL,
            ),
            *cases,
        ),
    )


def _case(blueprint: Blueprint, shape: tuple[int, ...], pairs: int) -> Figure:
    signature = SiteSignature(kind=blueprint.kind, x=shape, h=shape)
    plan = KernelOptimizer().optimize(BlueprintCompiler().compile(blueprint, signature))
    tensors = {name: torch.randn_like(value) for name, value in initial_tensors(plan).items()}
    kernel, plain = Kernel(plan, tensors, sha256=""), _plain(plan)
    plain.load_state_dict(kernel.state_dict())
    x, h = torch.randn(BATCH, *shape), torch.randn(BATCH, *shape, requires_grad=True)
    seconds = in_turn({"kernel": _step(kernel, x, h), "plain": _step(plain, x, h)}, rounds=pairs)
    size = "x".join(map(str, shape))
    return ratio(
        f"{blueprint.blueprint_id}-{size}",
        f"{blueprint.blueprint_id} at {size}",
        ("kernel_ms", scaled(seconds["kernel"], 1e3)),
        ("plain_ms", scaled(seconds["plain"], 1e3)),
    )


def _plain(plan: Plan) -> nn.Module:
    names: dict[str, Any] = {}
    exec(IMPORTS + to_source(plan, "Plain"), names)
    module: nn.Module = names["Plain"]()
    return module


def _step(module: nn.Module, x: Tensor, h: Tensor) -> Callable[[], None]:
    wanted = (h, *module.parameters())

    def step() -> None:
        torch.autograd.grad((h + module(x, h)).square().mean(), wanted)

    return step
