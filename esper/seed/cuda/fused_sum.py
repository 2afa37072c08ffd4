"""Sums of several large tensors on a GPU in one pass over memory, forward and backward.

At a large site memory bandwidth limits the kernels: adding four outputs to h one by one moves as
much memory as eight additions, one pass as much as two. torch's element-wise compiler (jiterator)
compiles the pass at its first use, in about 0.1 s.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from esper.seed.private_torch import compile_elementwise
from esper.seed.seed import Seed, last_op

log = logging.getLogger("esper")

MAX_TERMS: Final = 8
"""The most inputs that torch's element-wise compiler accepts."""


def fused_sum(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape, added from the first to the last."""
    first, *rest = terms
    while rest:
        group, rest = rest[: MAX_TERMS - 1], rest[MAX_TERMS - 1 :]
        first = _sum((first, *group))
    return first


def _sum(terms: Sequence[Tensor]) -> Tensor:
    if len(terms) > 2 and _are_alike(terms) and (result := _in_one_pass(terms)) is not None:
        return result
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _are_alike(terms: Sequence[Tensor]) -> bool:
    first = terms[0]
    return first.is_cuda and all(
        term.dtype == first.dtype and term.stride() == first.stride() for term in terms
    )


def _in_one_pass(terms: Sequence[Tensor]) -> Tensor | None:
    """Return the sum; if torch cannot compile it, log a warning once and return None."""
    if _COMPILE_ERRORS:
        return None
    try:
        result: Tensor = _compiled(len(terms))(*terms)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _COMPILE_ERRORS.append(str(error))
        log.warning("torch cannot compile fused sums, so terms are added one by one: %s", error)
        return None
    return result


_COMPILE_ERRORS: Final[list[str]] = []


@cache
def _compiled(count: int) -> Callable[..., Any]:
    names = [f"term{index}" for index in range(count)]
    parameters = ", ".join(f"T {name}" for name in names)
    code = f"template <typename T> T total({parameters}) {{ return {' + '.join(names)}; }}"
    return compile_elementwise(code)


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, count: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple([h.view_as(h) for _ in range(count)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        present = [grad for grad in grads if grad is not None]
        return fused_sum(present) if present else None, None


def fan_out(h: Tensor, count: int) -> Sequence[Tensor]:
    """Return `count` views of h whose gradients are added in one pass."""
    apply: Any = _FanOut.apply
    result: tuple[Tensor, ...] = apply(h, count)
    return result


def sum_terms(seeds: Sequence[Seed], h: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the terms of y: h, and the output of each kernel times alpha.

    The weights of last ops must be multiplied by alpha already; their outputs then are too.
    """
    scaled = [
        output.to(h.dtype) if last_op(seed.kernel) is not None else seed.with_alpha(output, h)
        for seed, output in zip(seeds, outputs, strict=True)
    ]
    return h, *scaled
