"""Kernels of shipped blueprints for the benchmarks that run them, forward and backward."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from benchmarks.result import BenchmarkError
from benchmarks.timing import interleaved
from esper.blueprint import shipped
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import SOURCE_IMPORTS, Kernel, KernelPlan, to_source
from esper.topics.models import Blueprint, SiteKind, SiteSignature

Device = Literal["cpu", "cuda"]
Step = Callable[[], object]
Precision = Callable[[], AbstractContextManager[object]]
BATCH: Final = 32
WARMING_ROUNDS: Final = 4
SHAPES: Final = {
    SiteKind.VECTOR: ((16,), (64,), (256,)),
    SiteKind.SEQUENCE: ((16, 32), (64, 128)),
    SiteKind.FEATURE_MAP: ((8, 8, 8), (16, 16, 16), (64, 16, 16)),
}
"""Sites at which kernels are measured: sizes of the digits host and of small image models."""


@dataclass(frozen=True, slots=True)
class KernelCase:
    """A blueprint at a site."""

    blueprint: Blueprint
    signature: SiteSignature

    @property
    def name(self) -> str:
        """Blueprint and site shape, for the key of a figure."""
        size = "x".join(map(str, self.signature.h))
        return f"{self.blueprint.blueprint_id}-{size}"

    def plan(self) -> KernelPlan:
        """Return the compiled plan before any pass."""
        return BlueprintCompiler().compile(self.blueprint, self.signature)


def cases(device: Device, quick: bool) -> Iterator[KernelCase]:
    """Yield every shipped blueprint at several site sizes; `quick`: at the smallest only."""
    for blueprint in shipped():
        for kind in blueprint.kinds:
            for shape in SHAPES[kind][: 1 if quick else None]:
                yield KernelCase(
                    blueprint, SiteSignature(kind=kind, x=shape, h=shape, device=device)
                )


def check_device(device: Device) -> None:
    """Raise `BenchmarkError` if the device is a GPU and torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BenchmarkError(
            "torch finds no GPU on this machine; run the benchmark on a machine with one"
        )


def device_name(device: Device) -> str:
    """Return the name of the GPU, or `cpu`."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def kernel_of(plan: KernelPlan) -> Kernel:
    """Return a kernel with random weights, as after training, on the device of its plan."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in initial_tensors(plan).items()
    }
    return Kernel(plan, tensors, sha256="").to(plan.signature.device)


def plain_of(kernel: Kernel) -> nn.Module:
    """Return the same network with the same weights as the plain module that Esper exports."""
    names: dict[str, Any] = {}
    exec(SOURCE_IMPORTS + to_source(kernel.plan, "Plain"), names)
    module: nn.Module = names["Plain"]().to(kernel.plan.signature.device)
    module.load_state_dict(kernel.state_dict())
    return module


def inputs_of(signature: SiteSignature, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return x and h of a batch; h requires a gradient, as the output of a host layer does."""
    x = torch.randn(batch, *signature.x, device=signature.device)
    return x, torch.randn(batch, *signature.h, device=signature.device, requires_grad=True)


def pass_of(
    call: Callable[[Tensor, Tensor], Tensor],
    weights: tuple[Tensor, ...],
    x: Tensor,
    h: Tensor,
    precision: Precision = nullcontext,
) -> Step:
    """Return a call of forward and backward of h + k(x, h), synchronised on a GPU."""
    wanted = (h, *weights)

    def step() -> None:
        with precision():
            loss = (h + call(x, h)).square().mean()
        torch.autograd.grad(loss, wanted)

    return finishing(step) if h.is_cuda else step


def finishing(step: Step) -> Step:
    """Return the call followed by a synchronisation of the GPU."""

    def whole() -> None:
        step()
        torch.cuda.synchronize()

    return whole


def bfloat16(device: Device) -> Precision:
    """Return autocast to bfloat16 on a device."""
    return lambda: torch.autocast(device, torch.bfloat16)


def paired(calls: dict[str, Step], budget_s: float, most: int) -> dict[str, list[float]]:
    """Return seconds of each call, interleaved, for about `budget_s` seconds or `most` rounds."""
    for _ in range(WARMING_ROUNDS):
        start = perf_counter()
        for call in calls.values():
            call()
        round_s = perf_counter() - start
    return interleaved(calls, rounds=max(5, min(most, int(budget_s / round_s))))
