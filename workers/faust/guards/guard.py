"""The defects of Faust that are guarded against, and the one version they were measured on."""

from enum import StrEnum
from importlib.metadata import version

TESTED_FAUST = "0.15.3"


class UntestedFaust(ImportError):
    """The installed Faust is not the one whose internals the guards were written for."""


def require_tested(found: str) -> None:
    """Accept the tested version of faust-streaming and no other.

    Raises:
        UntestedFaust: it is another; the guards override methods that may have changed.
    """
    if found != TESTED_FAUST:
        raise UntestedFaust(
            f"faust-streaming {found} is installed, but the guards against lost records were "
            f"tested with {TESTED_FAUST} only; install faust-streaming=={TESTED_FAUST}"
        )


require_tested(version("faust-streaming"))


class Guard(StrEnum):
    """One way in which Faust alone loses records, or never comes to an end."""

    COMMIT_GAPS = "commit-gaps"
    """Faust commits past records still in work: the offsets acknowledged so far are not compared
    with the oldest one handed out. Guarded: only the finished prefix of what was handed out."""

    REBALANCE_SEEK = "rebalance-seek"
    """Faust seeks while records flow, then empties its buffers: what came in between is skipped.
    Guarded: nothing flows during the seek, and partitions without a commit are sought as well."""

    CRASH_ON_ERROR = "crash-on-error"
    """Faust acknowledges the record whose processing raised, and goes on with the next one; where
    what it awaited was cancelled, it reads no further and says nothing. Guarded: nothing is
    committed any more and the app stops; the record is read again."""

    DRAIN_ON_STOP = "drain-on-stop"
    """Faust either acknowledges what is in work when it is told to stop, or waits for it without
    end. Guarded: it waits for a limited time, then stops without acknowledging the rest."""


ALL = frozenset(Guard)
