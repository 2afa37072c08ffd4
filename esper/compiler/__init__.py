"""Compile a blueprint for a site: from a request to validated, signed bytes.

In: a `KernelRequested`. Out: `Built` (the artifact and its measurements) or `Rejected` (a code and
a reason). `BlueprintCompiler` writes a plan, `KernelOptimizer` rewrites it, and `KernelValidator`
runs the bytes that will be published. `CompilePool` does all three in worker processes, which a
hostile blueprint may hang or crash. The caller signs the announcement outside those processes.
Names load on first use: `CompilePool` does not load torch.
"""

from typing import TYPE_CHECKING, Final

from esper.lazy import lazy_attributes

if TYPE_CHECKING:
    from esper.compiler.build import build_kernel
    from esper.compiler.compile import BlueprintCompiler
    from esper.compiler.compile_pool import STAGES, CompilePool, Stages
    from esper.compiler.fork_server import ForkServer
    from esper.compiler.initialise import initial_tensors
    from esper.compiler.limits import ProcessLimits
    from esper.compiler.measure import LiveBytes, host_flops
    from esper.compiler.optimize import KernelOptimizer
    from esper.compiler.passes import PASSES, Pass
    from esper.compiler.passes.liveness import free_early
    from esper.compiler.results import BuildResult, Built, Compiled, Rejected, Validated, to_bytes
    from esper.compiler.timing import MILLISECONDS, timed
    from esper.compiler.validate import KernelRejected, KernelValidator
    from esper.compiler.worker_pool import PoolBroken, Stage

_MODULES: Final = {
    "BlueprintCompiler": ".compile",
    "BuildResult": ".results",
    "Built": ".results",
    "CompilePool": ".compile_pool",
    "Compiled": ".results",
    "ForkServer": ".fork_server",
    "KernelOptimizer": ".optimize",
    "KernelRejected": ".validate",
    "KernelValidator": ".validate",
    "LiveBytes": ".measure",
    "MILLISECONDS": ".timing",
    "PASSES": ".passes",
    "Pass": ".passes",
    "PoolBroken": ".worker_pool",
    "ProcessLimits": ".limits",
    "Rejected": ".results",
    "STAGES": ".compile_pool",
    "Stage": ".worker_pool",
    "Stages": ".compile_pool",
    "Validated": ".results",
    "build_kernel": ".build",
    "free_early": ".passes.liveness",
    "host_flops": ".measure",
    "initial_tensors": ".initialise",
    "timed": ".timing",
    "to_bytes": ".results",
}

__all__ = [
    "MILLISECONDS",
    "PASSES",
    "STAGES",
    "BlueprintCompiler",
    "BuildResult",
    "Built",
    "CompilePool",
    "Compiled",
    "ForkServer",
    "KernelOptimizer",
    "KernelRejected",
    "KernelValidator",
    "LiveBytes",
    "Pass",
    "PoolBroken",
    "ProcessLimits",
    "Rejected",
    "Stage",
    "Stages",
    "Validated",
    "build_kernel",
    "free_early",
    "host_flops",
    "initial_tensors",
    "timed",
    "to_bytes",
]


__getattr__ = lazy_attributes(__name__, _MODULES)
