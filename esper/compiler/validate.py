"""Validation: the very bytes that would be published are loaded, run and measured."""

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import perf_counter
from typing import Final, TypeVar

import torch
from torch import Tensor

from esper.blueprint.rejection import RejectionCode
from esper.kernel.artifact import DTYPES, unpack
from esper.kernel.executor import Kernel
from esper.kernel.plan import Plan
from esper.kernel.refusal import ArtifactRefused
from topics.codec import sha256_of
from topics.models import Characterisation

BATCH: Final = 4
SCALES: Final = (1e-2, 1.0, 1e2)
LEARNING_STEPS: Final = 3
LEARNING_RATE: Final = 1e-2
MEASURED_RUNS: Final = 5
MEASURED_MS: Final = 10.0
"""No further run is measured once this much time has gone into measuring."""

MILLISECONDS: Final = 1e3

R = TypeVar("R")


class KernelRejected(Exception):
    """An artifact that loads or behaves otherwise than a kernel must; `code` says in which way."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class KernelValidator:
    """Runs an artifact as the trainer would, on the CPU, on fixed pseudo-random inputs."""

    def validate(self, data: bytes) -> Characterisation:
        """Return what was measured on an artifact that keeps every promise of a kernel.

        It gives the shape of `h`; is exactly zero at birth, for inputs of three scales; passes
        gradient to every parameter within three steps of sign descent; stays finite; repeats
        itself; and row i of its result depends on row i of its inputs only.

        Raises:
            KernelRejected: with the code of the first promise that is broken.
        """
        try:
            plan, tensors = unpack(data)
        except ArtifactRefused as refusal:
            raise KernelRejected(RejectionCode.NOT_LOADABLE, str(refusal)) from refusal
        kernel = Kernel(plan, tensors, sha256_of(data))
        try:
            return self._run(kernel, len(data))
        except RuntimeError as error:
            raise KernelRejected(RejectionCode.NOT_RUNNABLE, f"torch: {error}") from error

    def _run(self, kernel: Kernel, size: int) -> Characterisation:
        x, h, target = _inputs(kernel.plan)
        _check_birth(kernel, x, h)
        _check_learning(kernel, x, h, target)
        _check_repeats(kernel, x, h)
        _check_rows(kernel, x, h)
        forward_ms, backward_ms = _measure(kernel, x, h)
        return Characterisation(
            params=kernel.params, bytes=size, forward_ms=forward_ms, backward_ms=backward_ms
        )


def _inputs(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, h and a target for the site's output; the same for equal plans."""
    generator = torch.Generator().manual_seed(0)
    signature = plan.signature
    x, h, target = (
        torch.randn(BATCH, *shape, generator=generator).to(DTYPES[signature.dtype])
        for shape in (signature.x, signature.h, signature.h)
    )
    return x, h, target


def _check_birth(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    for scale, result in _at_scales(kernel, x, h):
        if result.shape != h.shape:
            raise KernelRejected(
                RejectionCode.WRONG_RESULT_SHAPE,
                f"gives {tuple(result.shape)} where h is {tuple(h.shape)}",
            )
        # Zero weights hide a large value, but not one that is infinite: 0 * inf is not a number.
        _check_finite(result, f"at birth, for inputs of scale {scale:g}")
        if torch.count_nonzero(result):
            raise KernelRejected(
                RejectionCode.NOT_SILENT_AT_BIRTH, f"is not zero at birth at scale {scale:g}"
            )


def _check_learning(kernel: Kernel, x: Tensor, h: Tensor, target: Tensor) -> None:
    parameters = dict(kernel.named_parameters())
    silent = set(parameters)
    for step in range(LEARNING_STEPS):
        loss = (h + kernel(x, h) - target).square().mean()
        gradients = _gradients(loss, parameters)
        for name, gradient in gradients.items():
            _check_finite(gradient, f"in the gradient of {name} at step {step}")
        silent -= {name for name, gradient in gradients.items() if torch.count_nonzero(gradient)}
        _descend(parameters, gradients)
    if silent:
        raise KernelRejected(
            RejectionCode.NO_GRADIENT,
            f"no gradient reaches {', '.join(sorted(silent))} within {LEARNING_STEPS} steps",
        )
    for scale, result in _at_scales(kernel, x, h):
        _check_finite(result, f"after {LEARNING_STEPS} steps, for inputs of scale {scale:g}")


def _gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        loss, tuple(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(parameters, found, strict=True))


@torch.no_grad()
def _descend(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.sub_(LEARNING_RATE * gradients[name].sign())


@torch.no_grad()
def _check_repeats(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    if not torch.equal(kernel(x, h), kernel(x, h)):
        raise KernelRejected(
            RejectionCode.NOT_DETERMINISTIC, "gives two results for the same inputs"
        )


@torch.no_grad()
def _check_rows(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    other_x, other_h = (torch.cat([value[:1], 3 - value[1:]]) for value in (x, h))
    if not torch.equal(kernel(x, h)[0], kernel(other_x, other_h)[0]):
        raise KernelRejected(
            RejectionCode.BATCH_DEPENDENT, "the result for one sample depends on other samples"
        )


@torch.no_grad()
def _at_scales(kernel: Kernel, x: Tensor, h: Tensor) -> Iterator[tuple[float, Tensor]]:
    for scale in SCALES:
        yield scale, kernel(x * scale, h * scale)


def _check_finite(value: Tensor, where: str) -> None:
    if not torch.isfinite(value).all():
        raise KernelRejected(RejectionCode.NOT_FINITE, f"a value is not finite {where}")


def _measure(kernel: Kernel, x: Tensor, h: Tensor) -> tuple[float, float]:
    """Return the median milliseconds of a forward and of a backward pass over the batch."""
    x, h = x.requires_grad_(), h.requires_grad_()
    forward_ms: list[float] = []
    backward_ms: list[float] = []
    while len(forward_ms) < MEASURED_RUNS and sum(forward_ms + backward_ms) < MEASURED_MS:
        total, forward = _timed(lambda: kernel(x, h).sum())
        _, backward = _timed(total.backward)
        forward_ms.append(forward)
        backward_ms.append(backward)
    return median(forward_ms), median(backward_ms)


def _timed(call: Callable[[], R]) -> tuple[R, float]:
    start = perf_counter()
    result = call()
    return result, (perf_counter() - start) * MILLISECONDS
