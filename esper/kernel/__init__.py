"""Kernels: the format they travel in, and what verifies, builds and runs them in the trainer.

In: the bytes of an artifact, with a `KernelReady` that says what they must be. Out: a `Kernel`,
an `nn.Module` of `forward(x, h)`, or a refusal that says why. A kernel is data throughout: a
plan of whitelisted ops and weights; nothing that arrives is unpickled, traced or compiled.
Names load on first use, because signatures are also verified where torch is not wanted.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper.kernel.artifact import pack, unpack
    from esper.kernel.executor import Kernel
    from esper.kernel.loader import KernelLoader
    from esper.kernel.plan import KernelPlan, PlanStep
    from esper.kernel.refusal import ArtifactRefused, BadSignature
    from esper.kernel.source import to_source

_HOMES: Final = {
    "ArtifactRefused": "refusal",
    "BadSignature": "refusal",
    "Kernel": "executor",
    "KernelLoader": "loader",
    "KernelPlan": "plan",
    "PlanStep": "plan",
    "pack": "artifact",
    "to_source": "source",
    "unpack": "artifact",
}

__all__ = [
    "ArtifactRefused",
    "BadSignature",
    "Kernel",
    "KernelLoader",
    "KernelPlan",
    "PlanStep",
    "pack",
    "to_source",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
