"""Sums of many large tensors on a GPU in one pass over memory, forward and backward.

Where a site is large, memory is what its kernels wait for: to add four results to h one by one
reads and writes as much as eight additions, in one pass as much as two. torch compiles such a
pass at its first use, a tenth of a second, by its own element-wise compiler.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from esper.seed.parallel_branches import last_op

if TYPE_CHECKING:
    from esper.seed.bank import Seed

log = logging.getLogger("esper")

MOST_TERMS: Final = 8
"""What torch's compiler takes at a time."""


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape, from the first to the last."""
    first, *rest = terms
    while rest:
        now, rest = rest[: MOST_TERMS - 1], rest[MOST_TERMS - 1 :]
        first = _sum((first, *now))
    return first


def _sum(terms: Sequence[Tensor]) -> Tensor:
    if len(terms) > 2 and _are_alike(terms) and (result := _in_one_pass(terms)) is not None:
        return result
    first, *rest = terms
    for each in rest:
        first = first + each
    return first


def _are_alike(terms: Sequence[Tensor]) -> bool:
    first = terms[0]
    return first.is_cuda and all(
        each.dtype == first.dtype and each.stride() == first.stride() for each in terms
    )


def _in_one_pass(terms: Sequence[Tensor]) -> Tensor | None:
    """Return the sum; None, and a warning the first time, where torch cannot compile it."""
    if _UNAVAILABLE:
        return None
    try:
        result: Tensor = _compiled(len(terms))(*terms)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _UNAVAILABLE.append(str(error))
        log.warning("sums on the GPU go one by one, torch cannot compile them: %s", error)
        return None
    return result


_UNAVAILABLE: Final[list[str]] = []


@cache
def _compiled(count: int) -> Callable[..., Any]:
    names = [f"term{index}" for index in range(count)]
    parameters = ", ".join(f"T {name}" for name in names)
    code = f"template <typename T> T total({parameters}) {{ return {' + '.join(names)}; }}"
    make: Callable[[str], Callable[..., Any]] = torch.cuda.jiterator._create_jit_fn
    return make(code)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, count: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple([h.view_as(h) for _ in range(count)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        given = [grad for grad in grads if grad is not None]
        return total(given) if given else None, None


def spread(h: Tensor, count: int) -> Sequence[Tensor]:
    """Return h some times over, such that the gradients of all are added in one pass."""
    apply: Any = _Spread.apply
    result: tuple[Tensor, ...] = apply(h, count)
    return result


def terms(seeds: Sequence["Seed"], h: Tensor, added: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what is to be added up: h, and the result of each kernel times alpha.

    Weights of last ops come times alpha already, so that their results are.
    """
    weighed = [
        each.to(h.dtype) if last_op(seed.kernel) is not None else seed.weighed(each, h)
        for seed, each in zip(seeds, added, strict=True)
    ]
    return h, *weighed
