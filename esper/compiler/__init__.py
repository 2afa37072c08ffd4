"""From a blueprint and a site signature to signed bytes that a trainer will run.

`BlueprintCompiler` makes a plan, `KernelOptimizer` improves it, `KernelValidator` runs the very
bytes that will be published, and `CompilePool` does all three in processes that may hang or die
without harm. Signing happens outside those processes. Names load on first use: neither the
farm nor the keys need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from esper.compiler.compile import BlueprintCompiler
    from esper.compiler.compile_pool import CompilePool
    from esper.compiler.optimize import KernelOptimizer
    from esper.compiler.results import Built, Rejected
    from esper.compiler.validate import KernelRejected, KernelValidator

_HOMES: Final = {
    "BlueprintCompiler": "compile",
    "Built": "results",
    "CompilePool": "compile_pool",
    "KernelOptimizer": "optimize",
    "KernelRejected": "validate",
    "KernelValidator": "validate",
    "Rejected": "results",
}

__all__ = [
    "BlueprintCompiler",
    "Built",
    "CompilePool",
    "KernelOptimizer",
    "KernelRejected",
    "KernelValidator",
    "Rejected",
]


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
