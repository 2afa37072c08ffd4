"""The supervisor: what ends is started again, with growing pauses, and `down` leaves nothing."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.workers.local import process
from esper.workers.local.stack import LocalStack
from esper.workers.local.state import StackState, read_state
from esper.workers.local.status import Health, ServiceStatus
from esper.workers.local.supervisor import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    STABLE_S,
    Backoff,
    Supervisor,
)
from tests.waiting import wait_until


def pauses_of_crashes(count: int, *, lasting_s: float = 0.0) -> list[float]:
    """Return the pause before each start of a process that ends `lasting_s` after it."""
    backoff, now_s, pauses = Backoff(), 0.0, []
    for _ in range(count):
        ended_s = now_s
        while not backoff.may_start(now_s):
            now_s += FIRST_PAUSE_S
        pauses.append(now_s - ended_s)
        backoff.note_start(now_s)
        now_s += lasting_s
    return pauses


def test_pauses_double_up_to_a_limit_while_a_process_keeps_crashing() -> None:
    assert pauses_of_crashes(9) == [0, 0.5, 1, 2, 4, 8, 16, MAX_PAUSE_S, MAX_PAUSE_S]


def test_a_process_that_ran_long_is_started_again_at_once() -> None:
    assert pauses_of_crashes(4, lasting_s=STABLE_S) == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[LocalStack]:
    """Return a stack with its supervisor, without workers."""
    stack = LocalStack(home, {})
    stack.start(lambda _: None, workers=False, supervise=True)
    yield stack
    stack.stop()


def state_of(home: Path) -> StackState:
    state = read_state(home / "stack.json")
    assert state is not None
    return state


def row(stack: LocalStack, name: str) -> ServiceStatus:
    return next(one for one in stack.status() if one.name == name)


def test_a_killed_service_is_started_again_and_counted(stack: LocalStack) -> None:
    assert row(stack, "supervisor").health is Health.RUNNING
    for count in (1, 2):
        stack.kill("redis")
        wait_until(
            lambda count=count: (
                (row(stack, "redis").health, row(stack, "redis").restarts)
                == (Health.RUNNING, count)
            ),
            "Redis to be started again",
        )
    assert row(stack, "kafka").restarts == 0


def test_what_was_stopped_is_not_started_again(tmp_path: Path) -> None:
    """A check may be running while `esper down` takes the lock."""
    stack = LocalStack(tmp_path, {})
    assert stack.ended() == []
    assert stack.start_again("redis") is None
    log: list[str] = []
    Supervisor(stack, log.append).check()
    assert log == []


@pytest.mark.heavy
def test_a_killed_worker_is_started_again_and_down_leaves_no_process(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {})
    stack.start(lambda _: None, supervise=True)
    try:
        for name in ("compile", "bandit"):
            stack.kill(name)
        for name in ("compile", "bandit"):
            wait_until(
                lambda name=name: (
                    (row(stack, name).health, row(stack, name).restarts) == (Health.RUNNING, 1)
                ),
                f"{name} to be started again",
            )
        records = state_of(tmp_path).processes
    finally:
        stack.stop()
    assert not any(map(process.is_alive, records))
    left = [
        one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(one.info["cmdline"])
    ]
    assert left == []
