"""Every private function of torch that Esper uses, and the torch versions it was tested with.

Functions on the forward and backward path are aliases, which add no Python call. Not listed: the
dictionaries of `nn.Module` (`_modules`, `_parameters`, `_buffers`, `_forward_hooks`), which code
reads where it needs their values in place.
"""

import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch._compile import _disable_dynamo
from torch._utils import _unflatten_dense_tensors
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext

log = logging.getLogger("esper")

F = TypeVar("F", bound=Callable[..., Any])

TESTED_TORCH: Final = ("2.11", "2.15")
"""Releases of torch on which the test suite ran: on an H200 with 2.11, on CPUs with 2.15."""


def warn_if_untested(found: str) -> None:
    """Log a warning if `found`, a torch version, belongs to no tested release."""
    release = ".".join(found.split("+")[0].split(".")[:2])
    if release not in TESTED_TORCH:
        log.warning(
            "torch %s is untested: Esper uses private functions of torch, tested with %s; "
            "if esper.seed fails, install one of these",
            found,
            " and ".join(TESTED_TORCH),
        )


warn_if_untested(torch.__version__)

NOT_IN_BACKWARD: Final = -1
"""What `current_graph_task_id` returns outside of a backward pass."""

current_graph_task_id: Callable[[], int] = torch._C._current_graph_task_id
"""Return the id of the backward pass that runs on this thread, or `NOT_IN_BACKWARD`."""

backward_keeps_graph: Callable[[], bool] = torch._C._autograd._get_current_graph_task_keep_graph
"""Return whether the running backward pass was called with `retain_graph`."""

unflatten: Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]] = _unflatten_dense_tensors
"""Return views of a flat tensor, shaped as the given tensors."""

foreach_norm: Callable[..., tuple[Tensor, ...]] = torch._foreach_norm
"""Return the norm of each tensor of a list, a few kernel launches for all."""

tensor_version: Callable[[Tensor], int] = attrgetter("_version")
"""Return the counter that every in-place change of a tensor increments."""

any_global_hook: Callable[[], bool] = _has_any_global_hook
"""Return whether hooks are registered for all modules."""


def disable_dynamo(function: F) -> F:
    """Return `torch.compiler.disable(function)`, but import the compiler only when it is used."""
    disabled: Any = _disable_dynamo(function)
    result: F = disabled
    return result


def queue_backward_callback(callback: Callable[[], None]) -> None:
    """Run `callback` at the end of the running backward pass."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.queue_callback(callback)


def sees_single_operations() -> bool:
    """Return whether a function transform or a dispatch or function mode is active."""
    return (
        peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or any(map(_sees_calls, range(torch._C._len_torch_function_stack())))
    )


def _sees_calls(depth: int) -> bool:
    # `torch.set_default_device` pushes a mode too, which changes only how tensors are created.
    return not isinstance(torch._C._get_function_stack_at(depth), DeviceContext)


def saves_tensors_through_hooks() -> bool:
    """Return whether `torch.autograd.graph.saved_tensors_hooks` are active on this thread."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward or backward hooks of any kind."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def end_allocation_to_pool(pool: Any) -> None:
    """Stop the current GPU's allocator from serving requests from a graph's memory pool."""
    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


def compile_elementwise(code: str) -> Callable[..., Any]:
    """Return an element-wise CUDA function from C++ source; CUDA compiles it at the first call."""
    create: Callable[[str], Callable[..., Any]] = torch.cuda.jiterator._create_jit_fn
    return create(code)
