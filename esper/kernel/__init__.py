"""Kernels in the trainer: the artifact format, its verification, and the module that runs it.

In: the bytes of an artifact, and the `KernelReady` that states their hash, signature and site.
Out: a `Kernel`, an `nn.Module` with `forward(x, h)`, or an `ArtifactRefused` with the reason.
An artifact is data: a plan of whitelisted ops, and weights. Nothing received is unpickled,
traced or compiled. Names load on first use, because processes without torch verify artifacts too.
"""

from typing import TYPE_CHECKING, Final

from esper.lazy import lazy_attributes

if TYPE_CHECKING:
    from esper.kernel.announcement import (
        UNSIGNED,
        sign_announcement,
        sign_revocation,
        verify_announcement,
        verify_revocation,
    )
    from esper.kernel.artifact import TORCH_DTYPES, pack, unpack
    from esper.kernel.build import load_kernel
    from esper.kernel.draw import draw_parameter
    from esper.kernel.executor import Kernel, attribute_of
    from esper.kernel.fetch import (
        FetchedKernel,
        fetch_all_trained,
        fetch_kernel,
        fetch_kernels,
        fetch_trained,
    )
    from esper.kernel.loader import (
        Delivery,
        KernelLoader,
        KernelRefused,
        KernelsFailed,
        KernelsPrepared,
        KernelVerified,
    )
    from esper.kernel.plan import FIRST_STEP_SLOT, KernelPlan, PlanStep, StepLayout
    from esper.kernel.refusal import ArtifactRefused
    from esper.kernel.source import SOURCE_IMPORTS, to_source

_MODULES: Final = {
    "ArtifactRefused": ".refusal",
    "Delivery": ".loader",
    "FIRST_STEP_SLOT": ".plan",
    "FetchedKernel": ".fetch",
    "Kernel": ".executor",
    "KernelLoader": ".loader",
    "KernelPlan": ".plan",
    "KernelRefused": ".loader",
    "KernelVerified": ".loader",
    "KernelsFailed": ".loader",
    "KernelsPrepared": ".loader",
    "PlanStep": ".plan",
    "SOURCE_IMPORTS": ".source",
    "StepLayout": ".plan",
    "TORCH_DTYPES": ".artifact",
    "UNSIGNED": ".announcement",
    "attribute_of": ".executor",
    "draw_parameter": ".draw",
    "fetch_all_trained": ".fetch",
    "fetch_kernel": ".fetch",
    "fetch_kernels": ".fetch",
    "fetch_trained": ".fetch",
    "load_kernel": ".build",
    "pack": ".artifact",
    "sign_announcement": ".announcement",
    "sign_revocation": ".announcement",
    "to_source": ".source",
    "unpack": ".artifact",
    "verify_announcement": ".announcement",
    "verify_revocation": ".announcement",
}

__all__ = [
    "FIRST_STEP_SLOT",
    "SOURCE_IMPORTS",
    "TORCH_DTYPES",
    "UNSIGNED",
    "ArtifactRefused",
    "Delivery",
    "FetchedKernel",
    "Kernel",
    "KernelLoader",
    "KernelPlan",
    "KernelRefused",
    "KernelVerified",
    "KernelsFailed",
    "KernelsPrepared",
    "PlanStep",
    "StepLayout",
    "attribute_of",
    "draw_parameter",
    "fetch_all_trained",
    "fetch_kernel",
    "fetch_kernels",
    "fetch_trained",
    "load_kernel",
    "pack",
    "sign_announcement",
    "sign_revocation",
    "to_source",
    "unpack",
    "verify_announcement",
    "verify_revocation",
]


__getattr__ = lazy_attributes(__name__, _MODULES)
