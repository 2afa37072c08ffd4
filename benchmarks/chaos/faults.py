"""Faults at random times: signals to processes, and conditions; the time until all is well."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import psutil
import psycopg
import redis

from benchmarks.chaos.conditions import Condition
from benchmarks.chaos.progress import tell

POLL_S: Final = 0.05
RECOVERY_LIMIT_S: Final = 300.0
LASTING_S: Final = (0.5, 4.0)
"""Shortest and longest pause by SIGSTOP, and length of a condition, in seconds."""


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
class Process:
    """How faults reach a process: the pid it has now, and whether the service answers."""

    pid: Callable[[], int | None]
    answers: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """What a fault may hit: a process, or a condition.

    `only` is whether nothing else does its work meanwhile.
    """

    name: str
    weight: int
    only: bool
    hit: Process | Condition

    @property
    def kind(self) -> str:
        """The name without the number of the instance."""
        return self.name.partition("-")[0]


@dataclass(slots=True)
class Fault:
    """One fault: seconds since the start of the faults, None while the target has not recovered."""

    target: Target
    what: str
    at_s: float
    recovered_s: float | None = None

    def row(self) -> dict[str, object]:
        """Return the fault as a row of the result."""
        took = None if self.recovered_s is None else round(self.recovered_s - self.at_s, 3)
        return {
            "target": self.target.name,
            "fault": self.what,
            "at_s": round(self.at_s, 3),
            "recovery_s": took,
        }


@dataclass(slots=True)
class FaultInjector:
    """Injects `count` faults at random targets within `duration_s`, each target one at a time."""

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
        replaced = [
            one for one in self.targets.values() if isinstance(one.hit, Process) and not one.only
        ]
        for kind in {one.kind for one in replaced}:
            away = [list(self._times_away(one.name)) for one in replaced if one.kind == kind]
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
        lasting_s = self.rng.uniform(*LASTING_S)
        if isinstance(target.hit, Process):
            (sent,) = self.rng.choices(SIGNALS, [one.weight for one in SIGNALS])
            pid = target.hit.pid()
            if pid is None:
                return
            fault = Fault(target, sent.name, self.now_s())
            self._watch(_signal, fault, target.hit, sent.number, pid, lasting_s)
        else:
            fault = Fault(target, target.hit.what, self.now_s())
            self._watch(_hold, fault, target.hit, self.rng, lasting_s)
        self.faults.append(fault)

    def _watch(self, carry_out: Callable[..., bool], fault: Fault, *arguments: object) -> None:
        def watch() -> None:
            tell(f"{fault.at_s:7.1f} s  {fault.target.name}: {fault.what}")
            if carry_out(*arguments):
                fault.recovered_s = self.now_s()
                tell(f"{fault.recovered_s:7.1f} s  {fault.target.name} is well again")

        thread = threading.Thread(target=watch, name=f"chaos-{fault.target.name}", daemon=True)
        thread.start()
        self._watches.append(thread)


def _signal(process: Process, number: signal.Signals, pid: int, stopped_s: float) -> bool:
    """Send a signal; return whether the service answers again within `RECOVERY_LIMIT_S`."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid)
        found.send_signal(number)
        if number is signal.SIGSTOP:
            time.sleep(stopped_s)
            found.send_signal(signal.SIGCONT)
    replaced = number is not signal.SIGSTOP
    # `answers` first: it reaps a child of this process, whose pid a new server may ask for.
    return _within_limit(lambda: process.answers() and (not replaced or process.pid() != pid))


def _hold(condition: Condition, rng: random.Random, lasting_s: float) -> bool:
    """Hold a condition for a time; return whether it began and ended within the limits."""
    began = _within_limit(lambda: _done(lambda: condition.begin(rng)))
    time.sleep(lasting_s)
    return _within_limit(lambda: _done(condition.end)) and began


def _done(action: Callable[[], None]) -> bool:
    """Do it; return False if the service is away: another fault may have hit it."""
    try:
        action()
    except (OSError, redis.RedisError, psycopg.Error):
        return False
    return True


def _within_limit(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(POLL_S)
    return False


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
