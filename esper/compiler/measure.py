"""Measure the cost of a kernel beside a reference layer of the host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from statistics import median
from time import perf_counter
from typing import Any, Final, TypeVar
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper.compiler.timing import MILLISECONDS
from esper.kernel import TORCH_DTYPES
from esper.topics.models import SiteKind, SiteSignature

MAX_ROUNDS: Final = 5
ENOUGH_MS: Final = 4.0
"""No third round starts after this much measuring time."""

LONG_MS: Final = 15.0
"""No second round starts after a round this long: long rounds vary little."""

MAX_HOST_WEIGHTS: Final = 1 << 24
MAX_HOST_FLOPS: Final = 4_000_000_000
HOST_KERNEL: Final = 3

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Subject:
    """A function of x and h to measure, and its weights."""

    call: Callable[[Tensor, Tensor], Tensor]
    weights: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Median milliseconds of the forward and backward passes, and the peak live bytes."""

    forward_ms: float
    backward_ms: float
    peak_bytes: int


def side_by_side(subjects: Sequence[Subject], x: Tensor, h: Tensor) -> list[Cost]:
    """Return each subject's cost on the same inputs, measured in interleaved rounds."""
    x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
    # This pass also warms up each subject.
    peaks = [_peak_bytes(subject, x, h) for subject in subjects]
    taken: list[list[tuple[float, float]]] = [[] for _ in subjects]
    spent_ms, rounds = 0.0, 0
    while rounds < MAX_ROUNDS and spent_ms < (ENOUGH_MS if rounds > 1 else LONG_MS):
        for subject, times in zip(subjects, taken, strict=True):
            times.append(_times_ms(subject, x, h))
            spent_ms += sum(times[-1])
        rounds += 1
    return [
        Cost(median(forward), median(backward), peak)
        for (forward, backward), peak in zip(
            (zip(*times, strict=True) for times in taken), peaks, strict=True
        )
    ]


def host_flops(signature: SiteSignature) -> int:
    """Return the FLOPs of the reference layer for one sample; a multiply-add counts as two."""
    positions = signature.h[1:] if _is_map(signature) else signature.x[:-1]
    return 2 * prod(_host_weight_shape(signature)) * prod(positions)


def reference_host(signature: SiteSignature) -> Subject | None:
    """Return a typical host layer for a site; None if it is too large to measure.

    `Linear(Dx -> D)` for vectors and sequences; for feature maps `Conv2d(Cx -> C)`, 3x3, padded,
    with the stride that brings Hx to H. Its weights are random and preserve
    the input's variance.
    """
    shape = _host_weight_shape(signature)
    if prod(shape) > MAX_HOST_WEIGHTS or host_flops(signature) > MAX_HOST_FLOPS:
        return None
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) / prod(shape[1:]) ** 0.5
    dtype = TORCH_DTYPES[signature.dtype]
    weight = weight.to(dtype).requires_grad_()
    bias = torch.zeros(shape[0], dtype=dtype, requires_grad=True)
    if not _is_map(signature):
        return Subject(lambda x, h: F.linear(x, weight, bias), (weight, bias))
    stride = [
        ceil(whole / part) for whole, part in zip(signature.x[1:], signature.h[1:], strict=True)
    ]
    padding = HOST_KERNEL // 2
    return Subject(lambda x, h: F.conv2d(x, weight, bias, stride, padding), (weight, bias))


def _is_map(signature: SiteSignature) -> bool:
    return signature.kind is SiteKind.FEATURE_MAP


def _host_weight_shape(signature: SiteSignature) -> tuple[int, ...]:
    if _is_map(signature):
        return signature.h[0], signature.x[0], HOST_KERNEL, HOST_KERNEL
    return signature.h[-1], signature.x[-1]


def _times_ms(subject: Subject, x: Tensor, h: Tensor) -> tuple[float, float]:
    result, forward_ms = _timed(lambda: subject.call(x, h))
    total = result.sum()
    _, backward_ms = _timed(lambda: _gradients(subject, total, x, h))
    return forward_ms, backward_ms


def _gradients(subject: Subject, total: Tensor, x: Tensor, h: Tensor) -> object:
    return torch.autograd.grad(total, (x, h, *subject.weights), allow_unused=True)


def _timed(call: Callable[[], R]) -> tuple[R, float]:
    start = perf_counter()
    result = call()
    return result, (perf_counter() - start) * MILLISECONDS


def _peak_bytes(subject: Subject, x: Tensor, h: Tensor) -> int:
    """Return the peak bytes of live tensors over a forward and a backward pass.

    Counted: results, tensors saved for backward, and gradients. Not counted: inputs, weights,
    and a library's workspace within one op.
    """
    with LiveBytes([x, h, *subject.weights]) as live:
        result = subject.call(x, h)
        _gradients(subject, result.sum(), x, h)
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Track the storages that ops create within the block, until they are freed.

    `peak` is the largest total of their live bytes.
    """

    peak: int

    def __init__(self, known: Sequence[Tensor]) -> None:
        """Exclude the storages of `known` from the count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = 0
        self._followed: dict[int, object] = {_storage_id(tensor): None for tensor in known}
        self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # With True, torch would load its compiler, which takes seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an op and track the storages of its results."""
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, list | tuple) else (results,):
            if isinstance(result, Tensor):
                self._follow(result)
        return results

    def _follow(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _storage_id(tensor)
        if key in self._followed:
            return
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._followed[key]
            self._live -= size

        self._followed[key] = ref(storage, forget)
        self._live += size
        self.peak = max(self.peak, self._live)


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
