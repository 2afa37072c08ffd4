"""What a run that is stopped from outside still says: its failures so far, and the tests under way."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import pytest


class RunLog:
    """Prints each failure when it happens, and on SIGTERM the tests that have not ended."""

    def __init__(self) -> None:
        self._under_way: set[str] = set()
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note a test that starts."""
        self._under_way.add(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Forget a test that has ended."""
        self._under_way.discard(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print a failure."""
        if report.failed:
            print(f"\n{report.nodeid} ({report.when}): {report.longreprtext}", file=sys.stderr)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        names = ", ".join(sorted(self._under_way)) or "no test"
        pytest.exit(f"stopped by SIGTERM while these tests ran: {names}", returncode=128 + signum)
