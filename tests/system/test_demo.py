"""`esper demo` as a user meets it: it works, and it leaves nothing behind however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil
import pytest

from tests.waiting import wait_until

DEMO = (sys.executable, "-m", "esper.workers", "demo")


def environment(home: Path) -> dict[str, str]:
    """The environment of a user that sets ESPER_HOME alone."""
    ours = ("KAFKA_BOOTSTRAP_SERVERS", "ESPER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"ESPER_HOME": str(home)}


def left_behind(home: Path) -> list[str]:
    """Command lines of live processes that were started for this home."""
    found = []
    for entry in psutil.process_iter():
        try:
            command = " ".join(entry.cmdline())
            ours = str(home) in command or str(home) in entry.environ().get("ESPER_HOME", "")
            if ours and entry.status() != psutil.STATUS_ZOMBIE:
                found.append(command)
        except psutil.Error:
            continue
    return found


@contextmanager
def started_demo(home: Path, until: str) -> Iterator[subprocess.Popen[str]]:
    """Start the demo, go on once it has printed a line with `until`, and see that it has ended."""
    with subprocess.Popen(
        [*DEMO, "--epochs", "2000"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            if not any(until in line for line in demo.stdout):
                pytest.fail(f"the demo ended before it said {until!r}")
            yield demo
        finally:
            demo.kill()


@pytest.mark.timeout(170)
def test_the_demo_grows_exports_audits_and_cleans_up(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*DEMO, "--epochs", "15", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    facts = orjson.loads(ended.stdout)
    assert facts["audit"]["identical"], facts["audit"]
    assert facts["audit"]["closed"]
    assert facts["export_check"]["max_difference"] <= 1e-6, facts["export_check"]
    assert ended.returncode == 0, ended.stderr
    assert facts["seeds"]
    assert facts["params"] >= facts["never_grown"]["params"]
    assert facts["submit_to_ready_ms"]["count"] > 0
    assert left_behind(tmp_path) == []


@pytest.mark.timeout(170)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_no_process_behind_when_interrupted(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started_demo(tmp_path, until="training") as demo:
        assert left_behind(tmp_path)
        time.sleep(1.0)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    wait_until(lambda: not left_behind(tmp_path), "every process to end")
    assert "Traceback" not in output
    assert demo.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 130)
