"""Build a kernel in two stages, compile and validate; each runs within one process."""

from esper.blueprint import BlueprintRejected, RejectionCode, kernel_id
from esper.compiler.compile import BlueprintCompiler
from esper.compiler.initialise import initial_tensors
from esper.compiler.optimize import KernelOptimizer
from esper.compiler.results import BuildResult, Compiled, Rejected, Validated, built
from esper.compiler.timing import timed
from esper.compiler.validate import KernelRejected, KernelValidator
from esper.kernel import pack
from esper.topics.codec import sha256_of
from esper.topics.models import KernelRequested


def build_kernel(request: KernelRequested) -> BuildResult:
    """Compile and validate a kernel in this process; return a `Rejected` on failure."""
    match compile_kernel(request):
        case Rejected() as rejected:
            return rejected
        case Compiled() as compiled:
            pass
    match validate_kernel(compiled.artifact):
        case Rejected() as rejected:
            return rejected
        case Validated() as validated:
            return built(compiled, validated, {})


def compile_kernel(request: KernelRequested) -> Compiled | Rejected:
    """Compile, optimise and serialise a kernel; return a `Rejected` on failure."""
    timings_ms: dict[str, float] = {}
    try:
        _check_id(request)
        with timed(timings_ms, "compile"):
            plan = BlueprintCompiler().compile(request.blueprint, request.site_signature)
        with timed(timings_ms, "optimize"):
            plan = KernelOptimizer().optimize(plan)
        with timed(timings_ms, "serialise"):
            artifact = pack(plan, initial_tensors(plan))
    except BlueprintRejected as rejection:
        return Rejected(rejection.code, rejection.message, timings_ms)
    return Compiled(artifact, timings_ms)


def validate_kernel(artifact: bytes) -> Validated | Rejected:
    """Run and measure an artifact; return a `Rejected` on failure."""
    timings_ms: dict[str, float] = {}
    try:
        with timed(timings_ms, "validate"):
            characterisation = KernelValidator(timings_ms).validate(artifact)
    except KernelRejected as rejection:
        return Rejected(rejection.code, rejection.message, timings_ms)
    return Validated(sha256_of(artifact), characterisation, timings_ms)


def _check_id(request: KernelRequested) -> None:
    expected = kernel_id(request.blueprint, request.site_signature, request.pipeline)
    if request.kernel_id != expected:
        raise BlueprintRejected(
            RejectionCode.WRONG_ID,
            f"kernel_id is {request.kernel_id}, but for this blueprint and site it is {expected}; "
            "run the same Esper version in the planner and the compile workers",
        )
