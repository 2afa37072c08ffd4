"""Gain of each optimiser pass, forward and backward, on the kernels that it changes.

A plan and the same plan after one pass run interleaved on the same inputs and weights; both free
values early. On a GPU they also run under autocast to bfloat16, and as captured graphs, where only
GPU time counts. A pass has a goal on the devices for which the optimiser uses it; on the others
its figure shows the reason why not.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from benchmarks.hand_written import HAND_WRITTEN
from benchmarks.kernels import (
    BATCH,
    SHAPES,
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
)
from benchmarks.result import RATIO, Figure, Goal, Measurement, figure, ratio
from benchmarks.threads import one_thread
from benchmarks.timing import scaled
from esper.compiler import PASSES, KernelOptimizer, LiveBytes, Pass, free_early
from esper.kernel import Kernel, KernelPlan
from esper.topics.models import SiteSignature

GOAL: Final = Goal(sense="at most", limit=0.99)
PAIRS: Final = 200
CASE_S: Final = 0.8
QUICK_S: Final = 0.01
WARMING_STEPS: Final = 3


def run(quick: bool = False) -> Measurement:
    """Measure the passes for CPUs, on one thread."""
    with one_thread():
        return measure("cpu", quick)


def measure(device: Device, quick: bool = False) -> Measurement:
    """Return time with ÷ without each pass; passes in use also have a figure per case."""
    check_device(device)
    figures: list[Figure] = []
    for optimizer_pass in (*PASSES, optimizer(device)):
        for mode, make in MODES[device].items():
            found = [*_measured(optimizer_pass, make, mode, device, quick)]
            figures += _of_pass(optimizer_pass, mode, found, device)
    return Measurement(
        parameters={"batch": BATCH, "most_pairs": PAIRS, "device": device_name(device)},
        figures=(*figures, *_freeing(device, quick)),
    )


def optimizer(device: Device) -> Pass:
    """Return all passes of a device as one pass."""
    return Pass("optimizer", "every pass of this device", KernelOptimizer().optimize, (device,))


def _of_pass(
    optimizer_pass: Pass, mode: str, found: list[Figure], device: Device
) -> Iterator[Figure]:
    """Yield the figure of a pass in one mode and, if the device uses it, those of its cases."""
    shipped = device in optimizer_pass.devices
    yield figure(
        f"{optimizer_pass.name}-{mode}",
        f"{optimizer_pass.name}, {mode}{'' if shipped else ', measured and not used'}: "
        f"{optimizer_pass.summary}; with ÷ without, medians of all cases",
        RATIO,
        [case.median for case in found],
        goal=GOAL if shipped else None,
    )
    if shipped and optimizer_pass.name != "optimizer":
        yield from found


def _measured(
    optimizer_pass: Pass, make: "MakeStep", mode: str, device: Device, quick: bool
) -> Iterator[Figure]:
    for case in (*cases(device, quick), *hand_written_cases(device, quick)):
        plan = case.plan()
        if free_early(changed := optimizer_pass.run(plan)) == free_early(plan):
            continue
        steps = _steps(case, {"with": free_early(changed), "without": free_early(plan)}, make)
        seconds = paired(steps, QUICK_S if quick else CASE_S, PAIRS)
        yield ratio(
            f"{optimizer_pass.name}-{mode}-{case.name}",
            f"{optimizer_pass.name}, {mode}: {case.name}",
            ("with_ms", scaled(seconds["with"], 1e3)),
            ("without_ms", scaled(seconds["without"], 1e3)),
        )


def _steps(case: KernelCase, plans: dict[str, KernelPlan], make: "MakeStep") -> dict[str, Step]:
    x, h = inputs_of(case.signature)
    return {name: make(kernel_of(plan), x, h) for name, plan in plans.items()}


def hand_written_cases(device: Device, quick: bool) -> Iterator[KernelCase]:
    """Yield the hand-written graphs at the sites of the shipped blueprints."""
    for blueprint in HAND_WRITTEN:
        for shape in SHAPES[blueprint.kinds[0]][: 1 if quick else None]:
            signature = SiteSignature(kind=blueprint.kinds[0], x=shape, h=shape, device=device)
            yield KernelCase(blueprint, signature)


def _eager(kernel: Kernel, x: Tensor, h: Tensor) -> Step:
    return pass_of(kernel, tuple(kernel.parameters()), x, h)


def _autocast(kernel: Kernel, x: Tensor, h: Tensor) -> Step:
    precision = bfloat16(kernel.plan.signature.device)
    return pass_of(kernel, tuple(kernel.parameters()), x, h, precision)


def _captured(kernel: Kernel, x: Tensor, h: Tensor) -> Step:
    return capture(_unfinished(kernel, x, h))


def _unfinished(kernel: Kernel, x: Tensor, h: Tensor) -> Step:
    wanted = (h, *kernel.parameters())
    return lambda: torch.autograd.grad((h + kernel(x, h)).square().mean(), wanted)


def capture(step: Step) -> Step:
    """Return a call that replays a step as one CUDA graph and synchronises."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMING_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return finishing(graph.replay)


MakeStep = Callable[[Kernel, Tensor, Tensor], Step]
MODES: Final[dict[Device, dict[str, MakeStep]]] = {
    "cpu": {"float32": _eager},
    "cuda": {"float32": _eager, "bfloat16": _autocast, "captured": _captured},
}
"""Makes the timed step of a kernel, by device and mode."""


def _freeing(device: Device, quick: bool) -> Iterator[Figure]:
    """Yield the peak of live bytes in forward passes, with ÷ without freeing values early."""
    found = []
    for case in cases(device, quick):
        plan = case.plan()
        if len(plan.steps) > 1:
            freed, kept = (_peak_bytes(form, case) for form in (free_early(plan), plan))
            found.append(freed / kept)
    yield figure(
        "liveness-peak-bytes",
        "liveness: peak of live bytes without gradient, with ÷ without",
        RATIO,
        found,
        goal=GOAL,
    )


def _peak_bytes(plan: KernelPlan, case: KernelCase) -> int:
    kernel, (x, h) = kernel_of(plan), inputs_of(case.signature)
    with torch.no_grad(), LiveBytes([x, h, *kernel.parameters()]) as live:
        kernel(x, h)
    return int(live.peak)
