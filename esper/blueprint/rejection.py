"""The reasons to reject a blueprint: the codes, and the exception that carries one."""

from enum import StrEnum

from esper.errors import EsperError


class RejectionCode(StrEnum):
    """Every reason to reject compile work; the values of `KernelCompiled.reason_code`."""

    # The graph, independent of a site.
    UNKNOWN_OP = "unknown-op"
    WRONG_ARITY = "wrong-arity"
    UNKNOWN_ARGUMENT = "unknown-argument"
    MISSING_ARGUMENT = "missing-argument"
    BAD_ARGUMENT = "bad-argument"
    BAD_PARAMETER = "bad-parameter"
    BAD_EXPRESSION = "bad-expression"
    RESERVED_NAME = "reserved-name"
    DUPLICATE_NODE = "duplicate-node"
    DANGLING_REFERENCE = "dangling-reference"
    CYCLE = "cycle"
    OUTPUT_MISSING = "output-missing"
    DEAD_NODE = "dead-node"
    # The plan.
    OVER_QUOTA = "over-quota"
    DEFERRED = "deferred"
    # The graph at one site.
    WRONG_ID = "wrong-id"
    WRONG_KIND = "wrong-kind"
    BAD_SIZE = "bad-size"
    SHAPE_MISMATCH = "shape-mismatch"
    OUTPUT_SHAPE = "output-shape"
    TOO_MANY_PARAMETERS = "too-many-parameters"
    TOO_MANY_ACTIVATIONS = "too-many-activations"
    TOO_MANY_FLOPS = "too-many-flops"
    # The artifact, when the validator runs it.
    NOT_LOADABLE = "not-loadable"
    NOT_RUNNABLE = "not-runnable"
    WRONG_RESULT_SHAPE = "wrong-result-shape"
    NOT_FINITE = "not-finite"
    NOT_SILENT_AT_BIRTH = "not-silent-at-birth"
    NO_GRADIENT = "no-gradient"
    NOT_DETERMINISTIC = "not-deterministic"
    BATCH_DEPENDENT = "batch-dependent"
    STATE_NOT_KEPT = "state-not-kept"
    INPUT_CHANGED = "input-changed"
    # The worker process.
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"
    WORKER_ERROR = "worker-error"


class BlueprintRejected(EsperError, ValueError):
    """A blueprint cannot become a kernel; `code` is for programs, `message` for its author."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def at(self, where: str) -> "BlueprintRejected":
        """Return the same rejection with `where` before its message."""
        return BlueprintRejected(self.code, f"{where}: {self.message}")
