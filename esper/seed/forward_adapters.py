"""How seeds join what a layer computes, by the kind of layer.

Each of these stands in for the `forward` of a layer while something is planted there: it finds x
and h in the call, as kernels want them, and puts their sum in the place of h.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch import Tensor, nn

BANK: Final = "esper_seeds"
"""The name under which a grown layer holds its seeds."""

LINES_RANK: Final = 3

Join = Callable[..., Any]


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first argument of a call that is a tensor."""
    values = (*args, *kwargs.values())
    return next((value for value in values if isinstance(value, Tensor)), None)


def join(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Join a layer whose result is h."""
    bank: Any = layer._modules[BANK]
    if len(args) == 1 and not kwargs:
        return bank.run(layer, partial(type(layer).forward, layer), args[0])
    h = type(layer).forward(layer, *args, **kwargs)
    return bank(first_tensor(args, kwargs), h)


def join_channels_first(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Join a layer over (B, C, L), which kernels see as a sequence (B, L, C)."""
    h = type(layer).forward(layer, *args, **kwargs)
    x = first_tensor(args, kwargs)
    assert x is not None
    return layer._modules[BANK](x.mT, h.mT).mT  # type: ignore[misc]


def join_first_of_tuple(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Join a layer that returns h and more, as attention returns its weights."""
    h, *others = type(layer).forward(layer, *args, **kwargs)
    y = layer._modules[BANK](first_tensor(args, kwargs), h)  # type: ignore[misc]
    return (y, *others)


def join_of(layer: nn.Module, output: Any) -> Join | None:
    """Return how seeds join this layer, having seen its output; None where they cannot."""
    if isinstance(layer, nn.MultiheadAttention):
        return join_first_of_tuple
    if not isinstance(output, Tensor):
        return None
    convolves_lines = any(isinstance(part, nn.Conv1d) for part in layer.modules())
    return join_channels_first if convolves_lines and output.dim() == LINES_RANK else join
