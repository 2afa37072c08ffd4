"""The whole way from a request to an outcome, within one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from esper.blueprint.identity import kernel_id
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.compiler.compile import BlueprintCompiler
from esper.compiler.initialise import initial_tensors
from esper.compiler.optimize import KernelOptimizer
from esper.compiler.outcome import Built, Outcome, Rejected
from esper.compiler.validate import KernelRejected, KernelValidator
from esper.kernel.artifact import pack
from topics.codec import sha256_of
from topics.models import KernelRequested


def build(request: KernelRequested) -> Outcome:
    """Compile, optimise, serialise and validate a kernel; a rejection is a value."""
    timings_ms: dict[str, float] = {}
    try:
        return _built(request, timings_ms)
    except (BlueprintRejected, KernelRejected) as rejection:
        return Rejected(rejection.code, rejection.message, timings_ms)


def _built(request: KernelRequested, timings_ms: dict[str, float]) -> Built:
    _check_id(request)
    with _timed(timings_ms, "compile"):
        plan = BlueprintCompiler().compile(request.blueprint, request.site_signature)
    with _timed(timings_ms, "optimize"):
        plan = KernelOptimizer().optimize(plan)
    with _timed(timings_ms, "serialise"):
        artifact = pack(plan, initial_tensors(plan))
    with _timed(timings_ms, "validate"):
        characterisation = KernelValidator().validate(artifact)
    return Built(artifact, sha256_of(artifact), characterisation, timings_ms)


def _check_id(request: KernelRequested) -> None:
    expected = kernel_id(request.blueprint, request.site_signature, request.pipeline)
    if request.kernel_id != expected:
        raise BlueprintRejected(
            RejectionCode.WRONG_ID,
            f"kernel_id is {request.kernel_id}; this blueprint at this site is {expected} here "
            "(the planner may run another version of Esper)",
        )


@contextmanager
def _timed(timings_ms: dict[str, float], step: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings_ms[step] = (perf_counter() - start) * 1e3
