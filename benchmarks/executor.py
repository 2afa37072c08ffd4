"""The executor against the same network as a plain `nn.Module`: forward and backward.

Both run interleaved on the same inputs and weights; each pair gives one ratio, so that a
disturbance of the machine affects both. The plain module is the source that Esper exports for the
same plan. Modes: eager, autocast to bfloat16, both forms of gradient checkpointing, and planted in
a compiled host, where kernels stay eager (see `SeedBank`).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.kernels import (
    BATCH,
    Device,
    KernelCase,
    Step,
    bfloat16,
    cases,
    check_device,
    device_name,
    finishing,
    inputs_of,
    kernel_of,
    paired,
    pass_of,
    plain_of,
)
from benchmarks.result import RATIO, Figure, Goal, Measurement, figure, ratio
from benchmarks.threads import one_thread
from benchmarks.timing import scaled
from esper.compiler import KernelOptimizer
from esper.seed import Seed, SeedBank

GOAL: Final = Goal(sense="at most", limit=1.00)
PAIRS: Final = 300
CASE_S: Final = 0.3
QUICK_S: Final = 0.01
QUICK_STRIDE: Final = 6

Call = Callable[[Tensor, Tensor], Tensor]


def run(quick: bool = False) -> Measurement:
    """Measure on the CPU, on one thread."""
    with one_thread():
        return measure("cpu", quick)


def measure(device: Device, quick: bool = False) -> Measurement:
    """Return kernel time ÷ plain time for every shipped blueprint, in each mode."""
    check_device(device)
    modes = {mode: [*_mode(mode, device, quick)] for mode in MODES}
    modes["compiled"] = [*_compiled(device, quick)]
    return Measurement(
        parameters={"batch": BATCH, "most_pairs": PAIRS, "device": device_name(device)},
        figures=(*(_over_all(mode, found) for mode, found in modes.items()), *modes["eager"]),
    )


def _over_all(mode: str, found: list[Figure]) -> Figure:
    return figure(
        "kernel-over-plain" if mode == "eager" else f"kernel-over-plain-{mode}",
        f"kernel ÷ the same network as a plain nn.Module, {TITLES[mode]}: medians of all cases",
        RATIO,
        [case.median for case in found],
        goal=GOAL,
    )


def _mode(mode: str, device: Device, quick: bool) -> Iterator[Figure]:
    for case in _cases(device, quick):
        x, h = inputs_of(case.signature)
        steps = {name: MODES[mode](module, x, h) for name, module in _sides(case).items()}
        yield _compared(mode, case, steps, quick)


def _cases(device: Device, quick: bool) -> list[KernelCase]:
    return [*cases(device, quick)][:: QUICK_STRIDE if quick else 1]


def _sides(case: KernelCase) -> dict[str, nn.Module]:
    kernel = kernel_of(KernelOptimizer().optimize(case.plan()))
    return {"kernel": kernel, "plain": plain_of(kernel)}


def _compared(mode: str, case: KernelCase, steps: dict[str, Step], quick: bool) -> Figure:
    seconds = paired(steps, QUICK_S if quick else CASE_S, PAIRS)
    return ratio(
        case.name if mode == "eager" else f"{case.name}-{mode}",
        f"{case.name}, {TITLES[mode]}",
        ("kernel_ms", scaled(seconds["kernel"], 1e3)),
        ("plain_ms", scaled(seconds["plain"], 1e3)),
    )


def _eager(module: nn.Module, x: Tensor, h: Tensor) -> Step:
    return pass_of(module, tuple(module.parameters()), x, h)


def _autocast(module: nn.Module, x: Tensor, h: Tensor) -> Step:
    device: Device = "cuda" if h.is_cuda else "cpu"
    return pass_of(module, tuple(module.parameters()), x, h, bfloat16(device))


def _checkpointed(module: nn.Module, x: Tensor, h: Tensor, *, reentrant: bool) -> Step:
    call: Call = partial(checkpoint, module, use_reentrant=reentrant)
    leaves = (h, *module.parameters())

    def step() -> None:
        # The reentrant form supports `backward` only, which accumulates in `grad`.
        torch.autograd.backward((h + call(x, h)).square().mean())
        for leaf in leaves:
            leaf.grad = None

    return finishing(step) if h.is_cuda else step


MODES: Final[dict[str, Callable[[nn.Module, Tensor, Tensor], Step]]] = {
    "eager": _eager,
    "autocast": _autocast,
    "checkpoint": partial(_checkpointed, reentrant=False),
    "checkpoint-reentrant": partial(_checkpointed, reentrant=True),
}
"""Makes the timed step of a module, by mode; `compiled` has its own hosts (`_compiled`)."""

TITLES: Final = {
    "eager": "eager",
    "autocast": "under autocast to bfloat16",
    "checkpoint": "under gradient checkpointing",
    "checkpoint-reentrant": "under reentrant gradient checkpointing",
    "compiled": "planted in a compiled host",
}


class Host(nn.Module):
    """A minimal host: its output comes from its seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = SeedBank()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return a loss."""
        grown: Tensor = self.bank(x, h)
        return grown.square().mean()


def _compiled(device: Device, quick: bool) -> Iterator[Figure]:
    """Yield the cases by site: hosts are compiled once per site, their kernels are replaced."""
    by_site: dict[tuple[int, ...], list[KernelCase]] = {}
    for case in _cases(device, quick):
        by_site.setdefault(case.signature.h, []).append(case)
    for shape in by_site:
        torch._dynamo.reset()
        hosts = {name: Host() for name in ("kernel", "plain")}
        calls = {name: torch.compile(host, dynamic=False) for name, host in hosts.items()}
        for case in by_site[shape]:
            x, h = inputs_of(case.signature)
            steps = {}
            for name, module in _sides(case).items():
                hosts[name].bank.seeds["0"] = _seed(module, device)
                steps[name] = _host_pass(calls[name], module, x, h)
            yield _compared("compiled", case, steps, quick)


def _seed(module: nn.Module, device: Device) -> Seed:
    return Seed(module, alpha=0.5).to(device)  # type: ignore[arg-type]


def _host_pass(call: Call, module: nn.Module, x: Tensor, h: Tensor) -> Step:
    wanted = (h, *module.parameters())

    def step() -> None:
        torch.autograd.grad(call(x, h), wanted)

    return finishing(step) if h.is_cuda else step
