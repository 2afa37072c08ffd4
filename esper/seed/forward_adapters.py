"""Forward functions that replace a layer's own while seeds are planted there, by kind of layer.

Each adapter finds x and h in the call, lays them out as kernels expect, and returns the layer's
result with h replaced by the sum of h and the seeds.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

BANK_NAME: Final = "esper_seeds"
"""Name of the submodule in which a grown layer keeps its seeds."""

CHANNELS_FIRST_RANK: Final = 3

ForwardAdapter = Callable[..., Any]


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first argument of a call that is a tensor."""
    values = (*args, *kwargs.values())
    return next((value for value in values if isinstance(value, Tensor)), None)


def forward_tensor(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer that returns h, and add its seeds."""
    bank: Any = layer._modules[BANK_NAME]
    if len(args) == 1 and not kwargs:
        return bank.run(layer, partial(type(layer).forward, layer), args[0])
    h = type(layer).forward(layer, *args, **kwargs)
    return bank(first_tensor(args, kwargs), h)


def forward_channels_first(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer over (B, C, L), and add its seeds, which take a sequence (B, L, C)."""
    h = type(layer).forward(layer, *args, **kwargs)
    x = first_tensor(args, kwargs)
    assert x is not None
    return layer._modules[BANK_NAME](x.mT, h.mT).mT  # type: ignore[misc]


def forward_first_of_tuple(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer that returns a tuple with h first, as attention does, and add its seeds to h."""
    h, *others = type(layer).forward(layer, *args, **kwargs)
    y = layer._modules[BANK_NAME](first_tensor(args, kwargs), h)  # type: ignore[misc]
    return (y, *others)


def adapter_for(layer: nn.Module, output: Any) -> ForwardAdapter | None:
    """Return the adapter for a layer that returned `output`; None if none fits."""
    if isinstance(layer, nn.MultiheadAttention):
        return forward_first_of_tuple
    if not isinstance(output, Tensor):
        return None
    has_conv1d = any(isinstance(module, nn.Conv1d) for module in layer.modules())
    is_channels_first = has_conv1d and output.dim() == CHANNELS_FIRST_RANK
    return forward_channels_first if is_channels_first else forward_tensor
