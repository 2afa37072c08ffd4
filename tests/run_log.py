"""Output of a run that is stopped from outside: its failures, and the tests that were running."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import pytest


class RunLog:
    """Prints each failure when it happens, and on SIGTERM the names of the running tests."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note a test that starts."""
        self._running.add(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Forget a test that has ended."""
        self._running.discard(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print a failure."""
        if report.failed:
            print(f"\n{report.nodeid} ({report.when}): {report.longreprtext}", file=sys.stderr)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        names = ", ".join(sorted(self._running)) or "no test"
        pytest.exit(f"stopped by SIGTERM while these tests ran: {names}", returncode=128 + signum)
