"""The Faust defects that the guards close, and the one Faust version they are tested with."""

from enum import StrEnum
from importlib.metadata import version

from esper.errors import EsperError

TESTED_FAUST = "0.15.3"


class UntestedFaust(EsperError, ImportError):
    """The installed Faust is not the version whose internals the guards override."""


def require_tested(found: str) -> None:
    """Accept the tested version of faust-streaming only.

    Raises:
        UntestedFaust: `found` is another version, whose overridden methods may differ.
    """
    if found != TESTED_FAUST:
        raise UntestedFaust(
            f"faust-streaming {found} is installed, but the guards against lost records were "
            f"tested with {TESTED_FAUST} only; install faust-streaming=={TESTED_FAUST}"
        )


require_tested(version("faust-streaming"))


class Guard(StrEnum):
    """One way in which plain Faust loses records or hangs, and what the guard does about it."""

    COMMIT_GAPS = "commit-gaps"
    """Faust commits an offset past in-flight records: it does not compare the acknowledged offsets
    with the oldest record handed to an agent. Guard: commit only up to the oldest in-flight record
    of the partition."""

    REBALANCE_SEEK = "rebalance-seek"
    """After a rebalance Faust seeks while it fetches, then clears its buffers: records fetched in
    between are skipped. Guard: pause fetching during the seek, and also seek partitions that have
    no committed offset."""

    CRASH_ON_ERROR = "crash-on-error"
    """Faust acknowledges the record whose handler raised and continues with the next one; after a
    cancelled await the agent stops reading without a log line. Guard: stop committing and end the
    app, so that the record is read again."""

    DRAIN_ON_STOP = "drain-on-stop"
    """On shutdown Faust either acknowledges in-flight records or waits for them without limit.
    Guard: wait for a limited time, then stop without acknowledging the rest."""


ALL = frozenset(Guard)
