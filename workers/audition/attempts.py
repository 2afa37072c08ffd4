"""Attempts: a count on disk of the auditions that this worker began and did not end.

A kernel whose training kills the process would be read again after each restart, for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from esper.errors import EsperError
from esper.topics.codec import sha256_of
from esper.topics.models import AuditionRequested

MAX_ATTEMPTS: Final = 5


class TooManyAttempts(EsperError, RuntimeError):
    """The process ended in the middle of an audition too often."""


class Attempts:
    """Counts attempts in a folder, one file a request in progress."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, if it is missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def attempt(self, request: AuditionRequested) -> Iterator[None]:
        """Count an attempt, until the block ends in any way but the end of the process.

        Raises:
            TooManyAttempts: the process ended in `MAX_ATTEMPTS` earlier ones.
        """
        ids = "/".join(target.audition_id for target in request.targets)
        file = self._folder / sha256_of(ids.encode())
        before = _count(file)
        if before >= MAX_ATTEMPTS:
            file.unlink()
            raise TooManyAttempts(
                f"the audition worker ended {before} times while it trained this kernel"
            )
        file.write_text(str(before + 1))
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _count(file: Path) -> int:
    with suppress(FileNotFoundError, ValueError):
        return int(file.read_text())
    return 0
