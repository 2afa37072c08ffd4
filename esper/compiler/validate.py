"""Validation: the very bytes that would be published are loaded, run and measured."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from math import prod
from typing import Final

import torch
from torch import Tensor

from esper.blueprint import RejectionCode
from esper.compiler.limits import is_out_of_memory
from esper.compiler.measure import Subject, host_flops, reference_host, side_by_side
from esper.compiler.timing import timed
from esper.kernel import TORCH_DTYPES, ArtifactRefused, Kernel, KernelPlan, attribute_of, unpack
from esper.topics.codec import sha256_of
from esper.topics.models import Characterisation, SiteKind, SiteSignature

BATCH: Final = 4
LARGE_BATCH: Final = 2
LARGE: Final = 10_000_000
"""Beyond this much work for one sample, in FLOPs and elements, the batch is the smaller one."""

SCALES: Final = (1e-2, 1.0, 1e2)
SCALES_OF_HALF: Final = (1e-2, 1.0, 1e1)
"""The largest value of float16 is 65504: products of inputs of scale 100 pass it honestly."""

LEARNING_STEPS: Final = 3
LEARNING_RATE: Final = 1e-2
MAX_CUTS: Final = 8

TOLERANCE: Final = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""How far results may differ, relative to the largest, where sums are taken in another order."""


class KernelRejected(Exception):
    """An artifact that loads or behaves otherwise than a kernel must; `code` says in which way."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class KernelValidator:
    """Runs an artifact as the trainer would, on the CPU, on fixed pseudo-random inputs."""

    def __init__(self, timings_ms: dict[str, float] | None = None) -> None:
        """Add the milliseconds of each part to `timings_ms`, as `validate.PART`."""
        self._timings_ms = {} if timings_ms is None else timings_ms

    def validate(self, data: bytes) -> Characterisation:
        """Return what was measured on an artifact that keeps every promise of a kernel.

        It gives the shape of `h`; is exactly zero at birth, for inputs of three scales; passes
        gradient to every parameter within three steps of sign descent; stays finite, and so do
        its gradients; repeats itself, and with dropout under the same seed; survives its state
        dict bit for bit; leaves its inputs and weights as they are; and row i of its result
        depends on row i of its inputs only, whatever the batch.

        Raises:
            KernelRejected: with the code of the first promise that is broken.
            MemoryError, RuntimeError: memory ran out.
        """
        with self._timed("load"):
            kernel = _loaded(data)
        try:
            with _own_random_numbers():
                return self._run(kernel, len(data))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise KernelRejected(RejectionCode.NOT_RUNNABLE, f"torch: {error}") from error

    def _run(self, kernel: Kernel, size: int) -> Characterisation:
        with self._timed("inputs"):
            x, h = _inputs(kernel.plan)
        with self._timed("birth"):
            _check_birth(kernel, x, h)
        with self._timed("learning"):
            _check_learning(kernel, x, h)
        with self._timed("repeats"):
            result = _check_repeats(kernel, x, h)
        with self._timed("rows"):
            _check_rows(kernel, x, h, result)
            causal = _is_causal(kernel, x, h)
        with self._timed("measure"):
            return _characterised(kernel, size, x, h, causal)

    def _timed(self, part: str) -> AbstractContextManager[None]:
        return timed(self._timings_ms, f"validate.{part}")


def _loaded(data: bytes) -> Kernel:
    try:
        plan, tensors = unpack(data)
    except ArtifactRefused as refusal:
        raise KernelRejected(RejectionCode.NOT_LOADABLE, str(refusal)) from refusal
    return Kernel(plan, tensors, sha256_of(data))


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Draw from a fixed seed inside the block, so that a verdict on dropout repeats itself."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _inputs(plan: KernelPlan) -> tuple[Tensor, Tensor]:
    """Return x and h; the same for equal plans."""
    generator = torch.Generator().manual_seed(0)
    signature, batch = plan.signature, batch_of(plan)
    x, h = (
        torch.randn(batch, *shape, generator=generator).to(TORCH_DTYPES[signature.dtype])
        for shape in (signature.x, signature.h)
    )
    return x, h


def batch_of(plan: KernelPlan) -> int:
    """Return the samples a kernel is run on at a time; fewer where one is much work."""
    signature = plan.signature
    work = plan.flops + host_flops(signature) + prod(signature.x) + prod(signature.h)
    return BATCH if work <= LARGE else LARGE_BATCH


def _check_birth(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    scaled_x, scaled_h = _at_scales(x), _at_scales(h)
    with torch.no_grad():
        result = kernel.eval()(scaled_x, scaled_h)
    if result.shape != scaled_h.shape:
        raise KernelRejected(
            RejectionCode.WRONG_RESULT_SHAPE,
            f"gives {tuple(result.shape)} where h is {tuple(scaled_h.shape)}",
        )
    # Zero weights hide a large value, but not one that is infinite: 0 * inf is not a number.
    _check_finite(result, "at birth")
    if torch.count_nonzero(result):
        raise KernelRejected(RejectionCode.NOT_SILENT_AT_BIRTH, "is not zero at birth")


def _check_learning(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    """Check that a kernel learns to cancel h, with all its weights."""
    x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
    parameters = dict(kernel.train().named_parameters())
    silent = set(parameters)
    for step in range(LEARNING_STEPS):
        loss = (h + kernel(x, h)).square().mean()
        gradients = _gradients(loss, {"x": x, "h": h, **parameters})
        largest = _largest(gradients)
        for name, magnitude in largest.items():
            if not magnitude < float("inf"):
                message = f"the gradient of {name} is not finite at step {step}"
                raise KernelRejected(RejectionCode.NOT_FINITE, message)
        silent -= {name for name, magnitude in largest.items() if magnitude > 0}
        _descend(parameters, gradients)
        if not silent:
            break
    if silent:
        raise KernelRejected(
            RejectionCode.NO_GRADIENT,
            f"no gradient reaches {', '.join(sorted(silent))} within {LEARNING_STEPS} steps",
        )
    with torch.no_grad():
        _check_finite(kernel.eval()(_at_scales(x), _at_scales(h)), f"after {step + 1} steps")


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        loss, tuple(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def _largest(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest magnitude in each tensor; not a number where one of its values is none."""
    norms = [
        torch.linalg.vector_norm(tensor, float("inf"), dtype=torch.float32)
        for tensor in tensors.values()
    ]
    return dict(zip(tensors, torch.stack(norms).tolist(), strict=True))


@torch.no_grad()
def _descend(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.sub_(gradients[name].sign(), alpha=LEARNING_RATE)


@torch.no_grad()
def _check_repeats(kernel: Kernel, x: Tensor, h: Tensor) -> Tensor:
    """Return the result, which repeats: in another kernel of this state, and under a seed."""
    before = _versions(x, h, kernel)
    result: Tensor = kernel.eval()(x, h)
    if not torch.equal(result, _restored(kernel).eval()(x, h)):
        if torch.equal(result, kernel(x, h)):
            message = "gives another result after its state dict is saved and loaded"
            raise KernelRejected(RejectionCode.STATE_NOT_KEPT, message)
        _refuse_repeat("gives two results for the same inputs")
    if _has_dropout(kernel) and not torch.equal(_seeded(kernel, x, h), _seeded(kernel, x, h)):
        _refuse_repeat("gives two results for the same inputs under the same seed")
    if _versions(x, h, kernel) != before:
        message = "writes to its inputs or weights while it runs"
        raise KernelRejected(RejectionCode.INPUT_CHANGED, message)
    return result


def _refuse_repeat(message: str) -> None:
    raise KernelRejected(RejectionCode.NOT_DETERMINISTIC, message)


def _restored(kernel: Kernel) -> Kernel:
    """Return another kernel of the same plan with the same state."""
    state = kernel.state_dict()
    split = (name.split(".") for name in kernel.plan.parameters)
    if list(state) != [f"{attribute_of(node)}.{name}" for node, name in split]:
        message = f"has a state of {', '.join(state)}; its plan says otherwise"
        raise KernelRejected(RejectionCode.STATE_NOT_KEPT, message)
    blank = {
        name: torch.zeros_like(value)
        for name, value in zip(kernel.plan.parameters, state.values(), strict=True)
    }
    other = Kernel(kernel.plan, blank, kernel.sha256)
    other.load_state_dict(state)
    return other


def _has_dropout(kernel: Kernel) -> bool:
    return any(layout.spec.run_training is not None for layout in kernel.plan.layout)


def _seeded(kernel: Kernel, x: Tensor, h: Tensor) -> Tensor:
    torch.default_generator.manual_seed(0)
    result: Tensor = kernel.train()(x, h)
    return result


def _versions(x: Tensor, h: Tensor, kernel: Kernel) -> list[int]:
    """Return how often each tensor has been written to."""
    return [tensor._version for tensor in (x, h, *kernel.parameters())]


@torch.no_grad()
def _check_rows(kernel: Kernel, x: Tensor, h: Tensor, result: Tensor) -> None:
    other_x, other_h = (torch.cat([value[:1], 3 - value[1:]]) for value in (x, h))
    if not torch.equal(result[:1], kernel.eval()(other_x, other_h)[:1]):
        raise KernelRejected(
            RejectionCode.BATCH_DEPENDENT, "the result for one sample depends on other samples"
        )
    if not _close(result[:1], kernel(x[:1], h[:1]), kernel.plan.signature):
        raise KernelRejected(
            RejectionCode.BATCH_DEPENDENT,
            f"the result for one sample alone is not that in a batch of {len(x)}",
        )


@torch.no_grad()
def _is_causal(kernel: Kernel, x: Tensor, h: Tensor) -> bool | None:
    """Return whether no value is seen to depend on later positions; None if that means nothing.

    Seen: at each of up to eight cuts, all that comes after the cut is changed.
    """
    signature = kernel.plan.signature
    if signature.kind is not SiteKind.SEQUENCE or signature.x[0] != signature.h[0]:
        return None
    result = kernel.eval()(x[:1], h[:1])
    cuts = _cuts(signature.h[0])
    for first in range(0, len(cuts), len(x)):
        few = cuts[first : first + len(x)]
        changed = kernel(_changed_after(x[:1], few), _changed_after(h[:1], few))
        for row, cut in zip(changed, few, strict=True):
            if not _close(result[0, :cut], row[:cut], signature):
                return False
    return True


def _cuts(length: int) -> list[int]:
    """Return up to eight positions spread over a sequence, its second and its last among them."""
    steps = min(MAX_CUTS, length - 1)
    return sorted({1 + index * (length - 2) // max(1, steps - 1) for index in range(steps)})


def _changed_after(value: Tensor, cuts: Sequence[int]) -> Tensor:
    """Return one sample, (1, T, D), once for each cut, with what follows the cut changed."""
    rows = value.repeat(len(cuts), 1, 1)
    for row, cut in zip(rows, cuts, strict=True):
        row[cut:] = 3 - row[cut:]
    return rows


def _close(a: Tensor, b: Tensor, signature: SiteSignature) -> bool:
    largest = float(torch.linalg.vector_norm(a, float("inf"), dtype=torch.float32))
    tolerance = TOLERANCE[signature.dtype] * max(largest, LEARNING_RATE)
    return bool(torch.allclose(a.float(), b.float(), rtol=0, atol=tolerance))


def _at_scales(value: Tensor) -> Tensor:
    """Return the first sample once at each scale; (B, ...) to (3, ...)."""
    scales = SCALES_OF_HALF if value.dtype == torch.float16 else SCALES
    factors = torch.tensor(scales, dtype=value.dtype).view(-1, *[1] * (value.dim() - 1))
    return value.detach()[:1] * factors


def _check_finite(result: Tensor, when: str) -> None:
    """Refuse results of `_at_scales` that are not finite."""
    if torch.isfinite(result).all():
        return
    scales = SCALES_OF_HALF if result.dtype == torch.float16 else SCALES
    at = [
        f"{scale:g}" for scale, row in zip(scales, result, strict=True) if not row.isfinite().all()
    ]
    raise KernelRejected(
        RejectionCode.NOT_FINITE,
        f"a value is not finite {when}, for inputs of scale {', '.join(at)}",
    )


def _characterised(
    kernel: Kernel, size: int, x: Tensor, h: Tensor, causal: bool | None
) -> Characterisation:
    plan = kernel.plan
    host = reference_host(plan.signature)
    subjects = [Subject(kernel.train(), tuple(kernel.parameters())), *([host] if host else [])]
    cost, *costs_of_host = side_by_side(subjects, x, h)
    measured = Characterisation(
        params=kernel.params,
        bytes=size,
        flops=plan.flops,
        activation_bytes=sum(step.memory for step in plan.layout) * x.element_size(),
        forward_ms=cost.forward_ms,
        backward_ms=cost.backward_ms,
        peak_bytes=cost.peak_bytes,
        batch=len(x),
        device="cpu",
        causal=causal,
    )
    return measured.model_copy(
        update={
            f"host_{name}": value for each in costs_of_host for name, value in asdict(each).items()
        }
    )
