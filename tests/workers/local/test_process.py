"""Managed processes: started in their own session, identified safely, stopped completely."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from esper.workers.local import process
from esper.workers.local.errors import StartError
from esper.workers.local.process import ProcessRecord
from tests.waiting import TIMEOUT_S, wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT_AND_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)",
]
PRINTING = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
IGNORING_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
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


def test_stop_kills_a_process_that_ignores_sigterm(log: Path) -> None:
    record = process.spawn("ignoring", IGNORING_SIGTERM, log=log)
    _first_line(log)

    process.stop(record, grace_s=0.2)

    assert not process.is_alive(record)


def test_stop_does_not_touch_another_process_with_a_reused_pid(log: Path) -> None:
    stranger = process.spawn("stranger", PARENT_AND_CHILD, log=log)
    child = int(_first_line(log))
    ended_long_ago = stranger.model_copy(update={"started": "another start"})
    try:
        process.stop(ended_long_ago)

        assert not process.is_alive(ended_long_ago)
        assert process.is_alive(stranger)
        assert psutil.pid_exists(child)
    finally:
        process.stop(stranger)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the time of start")
def test_a_process_is_still_known_after_the_clock_was_set(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = process.spawn("waiting", IGNORING_SIGTERM, log=log)
    try:
        booted_s = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted_s + 3600.0)
        assert process.is_alive(record)
    finally:
        process.stop(record, grace_s=0.2)
    assert not process.is_alive(record)


def test_an_ended_process_is_not_alive_and_is_reaped(log: Path) -> None:
    record = process.spawn("short", [sys.executable, "-c", ""], log=log)

    wait_until(lambda: not process.is_alive(record), "the end of the process")
    assert not psutil.pid_exists(record.pid)


def test_a_deserialized_record_finds_the_process(log: Path) -> None:
    record = process.spawn("sleeper", SLEEP, log=log)

    again = ProcessRecord.model_validate_json(record.model_dump_json())

    assert process.is_alive(again)
    process.stop(again)
    assert not process.is_alive(record)


@pytest.mark.parametrize(("tied", "survives"), [(True, False), (False, True)])
def test_only_a_tied_process_dies_with_its_parent(log: Path, tied: bool, survives: bool) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from esper.workers.local import process\n"
        f"record = process.spawn('child', {PRINTING!r}, log=Path({str(log)!r}),"
        f" die_with_parent={tied})\n"
        f"sentinel = process.spawn('sentinel', {PRINTING!r}, log=Path({str(log)!r} + '.sentinel'),"
        " die_with_parent=True)\n"
        "print(record.model_dump_json(), flush=True)\n"
        "print(sentinel.model_dump_json(), flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        record = ProcessRecord.model_validate_json(parent.stdout.readline())
        sentinel = ProcessRecord.model_validate_json(parent.stdout.readline())
        assert _first_line(Path(f"{log}.sentinel")) == "here"
        assert _first_line(log) == "here"

        parent.kill()
        parent.wait()
        # The end of a tied sibling shows that the kernel has sent the signals.
        wait_until(lambda: not process.is_alive(sentinel), "the end of the tied sentinel")
    if not survives:
        wait_until(lambda: not process.is_alive(record), "the end of the tied process")
    assert process.is_alive(record) is survives
    process.stop(record)


def test_die_with_parent_is_refused_outside_the_main_thread(log: Path) -> None:
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


def test_a_missing_command_raises_with_its_name(log: Path) -> None:
    with pytest.raises(StartError, match="no-such-server"):
        process.spawn("server", ["no-such-server"], log=log)


def test_a_failed_start_raises_one_line_with_the_end_of_the_log(log: Path) -> None:
    dying = "import sys; sys.exit('FATAL port 80: permission denied\\n\\tat frame 1')"
    record = process.spawn("server", [sys.executable, "-c", dying], log=log)

    with pytest.raises(StartError) as caught:
        process.wait_until_ready(record, lambda: False, timeout_s=TIMEOUT_S)

    message = str(caught.value)
    assert "server ended while starting: FATAL port 80: permission denied" in message
    assert str(log) in message
    assert "\n" not in message
    assert "frame" not in message


def test_the_error_does_not_quote_an_earlier_process_in_the_same_log(log: Path) -> None:
    for reason in ("first", "second"):
        last = process.spawn("server", [sys.executable, "-c", f"exit('{reason}')"], log=log)
        process.wait_until_gone(last, timeout_s=TIMEOUT_S)

    with pytest.raises(StartError, match="starting: second "):
        process.wait_until_ready(last, lambda: False, timeout_s=TIMEOUT_S)

    assert log.read_text() == "first\nsecond\n"


def test_a_start_that_exceeds_the_timeout_raises(log: Path) -> None:
    record = process.spawn("sleeper", SLEEP, log=log)

    with pytest.raises(StartError, match=r"sleeper is not ready after 0\.1 s: \(empty log\)"):
        process.wait_until_ready(record, lambda: False, timeout_s=0.1)

    process.stop(record)


def _first_line(log: Path) -> str:
    wait_until(lambda: log.exists() and "\n" in log.read_text(), f"a line in {log}")
    return log.read_text().splitlines()[0]


def _is_gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
