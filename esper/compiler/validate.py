"""Validation: load, run and measure the very bytes that will be published."""

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
from esper.errors import EsperError
from esper.kernel import TORCH_DTYPES, ArtifactRefused, Kernel, KernelPlan, attribute_of, unpack
from esper.topics.codec import sha256_of
from esper.topics.models import Characterisation, SiteKind, SiteSignature

BATCH: Final = 4
LARGE_BATCH: Final = 2
LARGE: Final = 10_000_000
"""With more work than this per sample, in FLOPs plus elements, the batch is `LARGE_BATCH`."""

SCALES: Final = (1e-2, 1.0, 1e2)
SCALES_OF_HALF: Final = (1e-2, 1.0, 1e1)
"""The largest float16 is 65504; a sound kernel may exceed it with inputs of scale 100."""

LEARNING_STEPS: Final = 3
LEARNING_RATE: Final = 1e-2
MAX_CUTS: Final = 8

TOLERANCE: Final = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest difference, relative to the largest value, that another order of summation may give."""


class KernelRejected(EsperError):
    """An artifact does not load or misbehaves; `code` says how."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class KernelValidator:
    """Run artifacts as the trainer would, on the CPU, on fixed pseudo-random inputs."""

    def __init__(self, timings_ms: dict[str, float] | None = None) -> None:
        """Add the milliseconds of each part to `timings_ms` as `validate.PART`."""
        self._timings_ms = {} if timings_ms is None else timings_ms

    # Whatever the caller has switched off, gradients are part of the checks.
    @torch.inference_mode(False)
    @torch.enable_grad()
    def validate(self, data: bytes) -> Characterisation:
        """Return the measurements of an artifact that passes every check.

        The result has the shape of `h`, is exactly 0 at birth for inputs of three scales, and
        stays finite, as do its gradients. Every parameter receives gradient within three steps
        of sign descent. The result is deterministic (with dropout, under the same seed) and
        bit-identical after a state dict round trip. Inputs and weights are not modified. Row i
        of the result depends only on row i of the inputs, whatever the batch.

        Raises:
            KernelRejected: with the code of the first check that fails.
            MemoryError, RuntimeError: out of memory.
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
    """Use a fixed seed within the block, so that checks of dropout are reproducible."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _inputs(plan: KernelPlan) -> tuple[Tensor, Tensor]:
    """Return x and h; equal plans give equal inputs."""
    generator = torch.Generator().manual_seed(0)
    signature, batch = plan.signature, batch_of(plan)
    x, h = (
        torch.randn(batch, *shape, generator=generator).to(TORCH_DTYPES[signature.dtype])
        for shape in (signature.x, signature.h)
    )
    return x, h


def batch_of(plan: KernelPlan) -> int:
    """Return the batch size for a plan; smaller for expensive plans."""
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
    # Zero weights hide large values but not infinite ones: 0 * inf is NaN.
    _check_finite(result, "at birth")
    if torch.count_nonzero(result):
        raise KernelRejected(RejectionCode.NOT_SILENT_AT_BIRTH, "the result is not zero at birth")


def _check_learning(kernel: Kernel, x: Tensor, h: Tensor) -> None:
    """Check that all weights receive gradient while the kernel learns to cancel h."""
    x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
    parameters = dict(kernel.train().named_parameters())
    untrained = set(parameters)
    for step in range(LEARNING_STEPS):
        loss = (h + kernel(x, h)).square().mean()
        gradients = _gradients(loss, {"x": x, "h": h, **parameters})
        largest = _largest(gradients)
        for name, magnitude in largest.items():
            if not magnitude < float("inf"):
                message = f"the gradient of {name} is not finite at step {step}"
                raise KernelRejected(RejectionCode.NOT_FINITE, message)
        untrained -= {name for name, magnitude in largest.items() if magnitude > 0}
        _descend(parameters, gradients)
        if not untrained:
            break
    if untrained:
        raise KernelRejected(
            RejectionCode.NO_GRADIENT,
            f"no gradient reaches {', '.join(sorted(untrained))} within {LEARNING_STEPS} steps",
        )
    with torch.no_grad():
        _check_finite(kernel.eval()(_at_scales(x), _at_scales(h)), f"after {step + 1} steps")


def _gradients(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        loss, tuple(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def _largest(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest magnitude in each tensor; NaN if the tensor contains NaN."""
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
    """Return the result after checking that it is reproducible and survives a state dict."""
    before = _versions(x, h, kernel)
    result: Tensor = kernel.eval()(x, h)
    if not torch.equal(result, _restored(kernel).eval()(x, h)):
        if torch.equal(result, kernel(x, h)):
            message = "the result changes after saving and loading the state dict"
            raise KernelRejected(RejectionCode.STATE_NOT_KEPT, message)
        _refuse_repeat("two runs on the same inputs give different results")
    if _has_dropout(kernel) and not torch.equal(_seeded(kernel, x, h), _seeded(kernel, x, h)):
        _refuse_repeat("two runs on the same inputs and seed give different results")
    if _versions(x, h, kernel) != before:
        message = "the forward pass modifies its inputs or weights"
        raise KernelRejected(RejectionCode.INPUT_CHANGED, message)
    return result


def _refuse_repeat(message: str) -> None:
    raise KernelRejected(RejectionCode.NOT_DETERMINISTIC, message)


def _restored(kernel: Kernel) -> Kernel:
    """Return a second kernel of the same plan with the same state dict."""
    state = kernel.state_dict()
    split = (name.split(".") for name in kernel.plan.parameters)
    if list(state) != [f"{attribute_of(node)}.{name}" for node, name in split]:
        message = f"the state dict has {', '.join(state)}, which differs from the plan"
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
    """Return the version counter of each tensor, which every in-place write increments."""
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
            f"the result for one sample differs between a batch of 1 and of {len(x)}",
        )


@torch.no_grad()
def _is_causal(kernel: Kernel, x: Tensor, h: Tensor) -> bool | None:
    """Return whether no position depends on later ones; None where the question does not apply.

    The test changes everything after a cut, for up to eight cuts.
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
    """Return up to eight positions spread over a sequence, including the second and the last."""
    steps = min(MAX_CUTS, length - 1)
    return sorted({1 + index * (length - 2) // max(1, steps - 1) for index in range(steps)})


def _changed_after(value: Tensor, cuts: Sequence[int]) -> Tensor:
    """Return one sample, (1, T, D), once per cut, with the positions after the cut changed."""
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
    """Raise KernelRejected if a result of `_at_scales` is not finite."""
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
            f"host_{name}": value for cost in costs_of_host for name, value in asdict(cost).items()
        }
    )
