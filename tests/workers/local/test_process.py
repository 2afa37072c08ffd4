"""Processes are started apart, found again for certain, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from esper.workers.local import process
from esper.workers.local.errors import StartError
from esper.workers.local.process import ProcessRecord

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT_AND_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)",
]
TALKER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True)\n"
    "time.sleep(600)",
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "process.log"


def test_output_goes_to_the_log(log: Path) -> None:
    record = process.spawn("greeter", [sys.executable, "-c", "print('hello')"], log=log)

    assert _first_line(log) == "hello"
    process.stop(record)


def test_stop_ends_the_process_and_its_children(log: Path) -> None:
    record = process.spawn("family", PARENT_AND_CHILD, log=log)
    child = int(_first_line(log))

    process.stop(record)

    assert not process.is_alive(record)
    assert _is_gone(child)


def test_stop_ends_children_that_outlived_a_killed_parent(log: Path) -> None:
    record = process.spawn("family", PARENT_AND_CHILD, log=log)
    child = int(_first_line(log))
    process.kill(record)
    assert psutil.pid_exists(child)

    process.stop(record)

    assert _is_gone(child)


def test_stop_kills_what_ignores_sigterm_after_the_grace_period(log: Path) -> None:
    record = process.spawn("deaf", DEAF, log=log)
    _first_line(log)

    process.stop(record, grace_s=0.2)

    assert not process.is_alive(record)


def test_stop_spares_a_stranger_with_a_reused_pid(log: Path) -> None:
    stranger = process.spawn("stranger", PARENT_AND_CHILD, log=log)
    child = int(_first_line(log))
    ended_long_ago = stranger.model_copy(update={"created": stranger.created - 60.0})
    try:
        process.stop(ended_long_ago)

        assert not process.is_alive(ended_long_ago)
        assert process.is_alive(stranger)
        assert psutil.pid_exists(child)
    finally:
        process.stop(stranger)


def test_a_process_that_ended_is_not_alive_although_unreaped(log: Path) -> None:
    record = process.spawn("short", [sys.executable, "-c", ""], log=log)

    assert _becomes(lambda: not process.is_alive(record))
    assert not psutil.pid_exists(record.pid)


def test_a_record_read_back_finds_the_process(log: Path) -> None:
    record = process.spawn("sleeper", SLEEP, log=log)

    again = ProcessRecord.model_validate_json(record.model_dump_json())

    assert process.is_alive(again)
    process.stop(again)
    assert not process.is_alive(record)


@pytest.mark.parametrize(("leashed", "survives"), [(True, False), (False, True)])
def test_a_leashed_process_dies_when_its_parent_is_killed(
    log: Path, leashed: bool, survives: bool
) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from esper.workers.local import process\n"
        f"record = process.spawn('child', {TALKER!r}, log=Path({str(log)!r}),"
        f" die_with_parent={leashed})\n"
        "print(record.model_dump_json(), flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        record = ProcessRecord.model_validate_json(parent.stdout.readline())
        assert _first_line(log) == "here"  # From now on the leash is the kernel's business.

        parent.kill()
        parent.wait()

    gone = _becomes(lambda: not process.is_alive(record), within_s=1.0)
    process.stop(record)
    assert gone is not survives


def test_a_leash_is_refused_to_a_thread_that_would_end_before_the_service(log: Path) -> None:
    refusals: list[StartError] = []

    def start() -> None:
        try:
            process.spawn("sleeper", SLEEP, log=log, die_with_parent=True)
        except StartError as error:
            refusals.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in str(refusals[0])


def test_a_missing_command_is_an_error_that_names_it(log: Path) -> None:
    with pytest.raises(StartError, match="no-such-server"):
        process.spawn("server", ["no-such-server"], log=log)


def test_a_failed_start_is_told_on_one_line_with_the_end_of_the_log(log: Path) -> None:
    dying = "import sys; sys.exit('FATAL port 80: permission denied\\n\\tat frame 1')"
    record = process.spawn("server", [sys.executable, "-c", dying], log=log)

    with pytest.raises(StartError) as caught:
        process.wait_until_ready(record, lambda: False, timeout_s=10.0)

    message = str(caught.value)
    assert "server ended while starting: FATAL port 80: permission denied" in message
    assert str(log) in message
    assert "\n" not in message
    assert "frame" not in message


def test_an_earlier_run_in_the_same_log_is_not_told_again(log: Path) -> None:
    for reason in ("first", "second"):
        last = process.spawn("server", [sys.executable, "-c", f"exit('{reason}')"], log=log)
        process.wait_until_gone(last, timeout_s=10.0)

    with pytest.raises(StartError, match="starting: second "):
        process.wait_until_ready(last, lambda: False, timeout_s=10.0)

    assert log.read_text() == "first\nsecond\n"


def test_a_start_that_takes_too_long_is_an_error_that_says_so(log: Path) -> None:
    record = process.spawn("sleeper", SLEEP, log=log)

    with pytest.raises(StartError, match=r"sleeper is not ready after 0\.1 s: \(empty log\)"):
        process.wait_until_ready(record, lambda: False, timeout_s=0.1)

    process.stop(record)


def _first_line(log: Path) -> str:
    assert _becomes(lambda: log.exists() and "\n" in log.read_text())
    return log.read_text().splitlines()[0]


def _is_gone(pid: int) -> bool:
    """Gone, or only waiting to be reaped by whoever adopted it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _becomes(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
