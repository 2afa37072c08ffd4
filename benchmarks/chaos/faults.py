"""Signals to processes, and the time until the process answers again."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import psutil

POLL_S: Final = 0.05
RECOVERY_LIMIT_S: Final = 90.0
STOPPED_S: Final = (0.5, 4.0)
"""Shortest and longest pause by SIGSTOP, in seconds."""


class Signal(NamedTuple):
    """A signal and how often it is chosen."""

    name: str
    number: signal.Signals
    weight: int


SIGNALS: Final = (
    Signal("SIGKILL", signal.SIGKILL, 3),
    Signal("SIGTERM", signal.SIGTERM, 2),
    Signal("SIGSTOP", signal.SIGSTOP, 2),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A process that faults may hit: the pid it has now, and whether the service answers.

    `only` is whether nothing else does its work while it is away.
    """

    name: str
    weight: int
    only: bool
    pid: Callable[[], int | None]
    answers: Callable[[], bool]


@dataclass(slots=True)
class Fault:
    """One fault: seconds since the start of the faults, None while the target has not recovered."""

    target: Target
    signal: str
    at_s: float
    recovered_s: float | None = None

    def row(self) -> dict[str, object]:
        """Return the fault as a row of the result."""
        took = None if self.recovered_s is None else round(self.recovered_s - self.at_s, 3)
        return {
            "target": self.target.name,
            "signal": self.signal,
            "at_s": round(self.at_s, 3),
            "recovery_s": took,
        }


@dataclass(slots=True)
class FaultInjector:
    """Sends `count` signals to random targets within `duration_s`, each target one at a time."""

    targets: Mapping[str, Target]
    rng: random.Random
    started_s: float = field(default_factory=time.monotonic)
    faults: list[Fault] = field(default_factory=list)
    _watches: list[threading.Thread] = field(default_factory=list)

    def run(self, count: int, duration_s: float) -> None:
        """Inject the faults at random times, then wait until every target has recovered."""
        self.started_s = time.monotonic()
        for at_s in sorted(self.rng.uniform(0, duration_s) for _ in range(count)):
            time.sleep(max(0.0, at_s - self.now_s()))
            self._inject()
        for watch in self._watches:
            watch.join()

    def now_s(self) -> float:
        """Return the seconds since the start of the faults."""
        return time.monotonic() - self.started_s

    def outages(self) -> Iterator[tuple[float, float]]:
        """Yield the times in which a service was away that nothing replaces: from, to.

        Two workers of a kind replace each other; if all of a kind are away, none does.
        """
        for target in self.targets.values():
            if target.only:
                yield from self._times_away(target.name)
        yield from self._all_of_a_kind_away()

    def _all_of_a_kind_away(self) -> Iterator[tuple[float, float]]:
        kinds = {name.partition("-")[0] for name, one in self.targets.items() if not one.only}
        for kind in kinds:
            members = [name for name in self.targets if name.partition("-")[0] == kind]
            away = [list(self._times_away(name)) for name in members]
            yield from _common(away)

    def _times_away(self, name: str) -> Iterator[tuple[float, float]]:
        for fault in self.faults:
            if fault.target.name == name:
                ended_s = self.now_s() if fault.recovered_s is None else fault.recovered_s
                yield fault.at_s, ended_s

    def _inject(self) -> None:
        away = {one.target.name for one in self.faults if one.recovered_s is None}
        free = [target for target in self.targets.values() if target.name not in away]
        if not free:
            return
        (target,) = self.rng.choices(free, [one.weight for one in free])
        (sent,) = self.rng.choices(SIGNALS, [one.weight for one in SIGNALS])
        pid = target.pid()
        if pid is None:
            return
        fault = Fault(target, sent.name, self.now_s())
        self.faults.append(fault)
        pause_s = self.rng.uniform(*STOPPED_S)
        watch = threading.Thread(target=self._carry_out, args=(fault, sent.number, pid, pause_s))
        watch.start()
        self._watches.append(watch)

    def _carry_out(self, fault: Fault, number: signal.Signals, pid: int, pause_s: float) -> None:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(number)
            if number is signal.SIGSTOP:
                time.sleep(pause_s)
                process.send_signal(signal.SIGCONT)
        replaced = number is not signal.SIGSTOP
        deadline = time.monotonic() + RECOVERY_LIMIT_S
        while time.monotonic() < deadline:
            if (not replaced or fault.target.pid() != pid) and fault.target.answers():
                fault.recovered_s = self.now_s()
                return
            time.sleep(POLL_S)


def _common(of_each: list[list[tuple[float, float]]]) -> Iterator[tuple[float, float]]:
    """Yield the times that lie in an interval of every list."""
    first, *others = of_each
    for start, end in first:
        spans = [(start, end)]
        for other in others:
            spans = [
                (max(one, begin), min(two, stop))
                for one, two in spans
                for begin, stop in other
                if max(one, begin) < min(two, stop)
            ]
        yield from spans
