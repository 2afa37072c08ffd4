"""The process that keeps a local stack running: it starts again what has ended, with back-off.

`esper up` starts it last and `esper down` stops it first. Its log has one line per start.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from esper.errors import EsperError
from esper.workers.local.stack import LocalStack
from esper.workers.local.state import is_worker

CHECK_S = 0.5
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
STABLE_S = 60.0
"""A process that has run this long begins again with the first pause when it ends."""


@dataclass(slots=True)
class Backoff:
    """When a process may be started again: each time after twice the pause, up to a limit."""

    pause_s: float = FIRST_PAUSE_S
    started_s: float = float("-inf")

    def may_start(self, now_s: float) -> bool:
        """Return whether the pause since the last start is over."""
        return now_s - self.started_s >= self.pause_s

    def note_start(self, now_s: float) -> None:
        """Note a start; the next pause is twice as long, or the first if this one lasted."""
        lasted = now_s - self.started_s >= STABLE_S
        self.pause_s = FIRST_PAUSE_S if lasted else min(2 * self.pause_s, MAX_PAUSE_S)
        self.started_s = now_s


class Supervisor:
    """Starts ended processes of a stack again, one after another."""

    def __init__(
        self,
        stack: LocalStack,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stack = stack
        self._log = log
        self._clock = clock
        self._backoffs: dict[str, Backoff] = {}

    def check(self) -> None:
        """Start again each process that has ended and whose pause is over.

        While a service is away, workers are left: they cannot start without it.
        """
        ended = self._stack.ended()
        services = [name for name in ended if not is_worker(name)]
        for name in services or ended:
            backoff = self._backoffs.setdefault(name, Backoff())
            now_s = self._clock()
            if not backoff.may_start(now_s):
                continue
            backoff.note_start(now_s)
            try:
                restarts = self._stack.start_again(name)
            except EsperError as error:
                self._log(f"{name} ended and does not start: {error}")
                continue
            if restarts is not None:
                self._log(f"{name} ended; started again, {restarts} times in all")


def main(home: str) -> None:
    """Supervise the stack in `home` until SIGTERM."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    # The running check ends first: a process that it starts must be in the state file.
    signal.signal(signal.SIGTERM, stop)
    supervisor = Supervisor(LocalStack(Path(home)), _print)
    while not stopping.wait(CHECK_S):
        supervisor.check()


def _print(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
