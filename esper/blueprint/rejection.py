"""Why a blueprint does not become a kernel: the list of codes, and the exception with one."""

from enum import StrEnum


class RejectionCode(StrEnum):
    """Every reason for which compile work ends without a kernel; `KernelCompiled.reason_code`."""

    # The graph itself, whatever the site.
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
    # The graph at one site.
    WRONG_ID = "wrong-id"
    WRONG_KIND = "wrong-kind"
    BAD_SIZE = "bad-size"
    SHAPE_MISMATCH = "shape-mismatch"
    OUTPUT_SHAPE = "output-shape"
    TOO_MANY_PARAMETERS = "too-many-parameters"
    TOO_MANY_ACTIVATIONS = "too-many-activations"
    TOO_MANY_FLOPS = "too-many-flops"
    # The finished bytes, as the validator ran them.
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
    # The process that compiled.
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"
    CRASHED = "crashed"


class BlueprintRejected(ValueError):
    """A blueprint that cannot become a kernel; `code` is for programs, `message` for its author."""

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def at(self, where: str) -> "BlueprintRejected":
        """Return the same rejection with the place it concerns put before its message."""
        return BlueprintRejected(self.code, f"{where}: {self.message}")
