"""Gradients of many weights in one flat tensor per dtype, so that one call copies them all."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from esper.seed.private_torch import unflatten


class _Group(NamedTuple):
    """Gradients of one dtype: a flat tensor, and the index, shape and dim order of each."""

    flat: Tensor
    indices: tuple[int, ...]
    like: tuple[Tensor, ...]
    orders: tuple[tuple[int, ...] | None, ...]


class PackedGradients:
    """Gradients of weights, side by side in one tensor for each dtype.

    Callers need a copy: autograd keeps the given tensor as `grad` and adds to it in place.
    """

    def __init__(self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> None:
        """Pack gradients (None where absent), each in the memory order of its weight."""
        self._count = len(gradients)
        self._groups: list[_Group] = []
        for dtype in dict.fromkeys(grad.dtype for grad in gradients if grad is not None):
            indices, like, parts = [], [], []
            for index, (grad, weight) in enumerate(zip(gradients, weights, strict=True)):
                if grad is not None and grad.dtype == dtype:
                    order = _memory_order(weight)
                    indices.append(index)
                    like.append(weight.detach().permute(order))
                    parts.append(grad.detach().permute(order).reshape(-1))
            orders = [_memory_order(weights[index]) for index in indices]
            inverse = [None if _is_sorted(order) else _inverse(order) for order in orders]
            self._groups.append(
                _Group(torch.cat(parts), tuple(indices), tuple(like), tuple(inverse))
            )

    def unpack(self) -> list[Tensor | None]:
        """Return a copy of each gradient, in the order given to the constructor."""
        result: list[Tensor | None] = [None] * self._count
        for group in self._groups:
            copies = unflatten(group.flat.clone(), group.like)
            for index, copied, order in zip(group.indices, copies, group.orders, strict=True):
                result[index] = copied if order is None else copied.permute(order)
        return result


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dims from the largest stride to the smallest."""
    return tuple(sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True))


def _is_sorted(order: tuple[int, ...]) -> bool:
    return order == tuple(range(len(order)))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(dim) for dim in range(len(order)))
