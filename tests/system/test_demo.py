"""`esper demo` as a user runs it: it works, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil
import pytest

from esper.topics.bus import read_topic
from esper.topics.catalog import SEED_METRICS
from esper.workers.local import read_state
from tests.waiting import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

DEMO = (sys.executable, "-m", "esper.workers", "demo")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user that sets ESPER_HOME alone."""
    ours = ("KAFKA_BOOTSTRAP_SERVERS", "ESPER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"ESPER_HOME": str(home)}


def left_behind(home: Path) -> list[str]:
    """Return the command lines of live processes that were started for this home."""
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


def reports(home: Path) -> int:
    """Return how many reports the demo's training has published."""
    state = read_state(home / "demo" / "stack.json")
    assert state is not None
    return len(read_topic(state.kafka_bootstrap_servers, SEED_METRICS.name))


@contextmanager
def started_demo(home: Path, until: str) -> Iterator[subprocess.Popen[str]]:
    """Start the demo, yield when it has printed a line with `until`, and kill it at the end."""
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
                pytest.fail(f"the demo ended before it printed {until!r}")
            yield demo
        finally:
            demo.kill()


def test_the_demo_grows_exports_audits_and_cleans_up(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*DEMO, "--epochs", "50", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    facts = orjson.loads(ended.stdout)
    assert facts["audit"]["identical"], facts["audit"]
    assert facts["audit"]["closed"]
    assert facts["export_check"]["max_difference"] <= 1e-6, facts["export_check"]
    assert ended.returncode == 0, ended.stderr
    assert [seed["blueprint_id"] for seed in facts["seeds"]] == ["line-conv"]
    assert facts["params"] > facts["never_grown"]["params"]
    assert facts["test_accuracy"] > facts["never_grown"]["test_accuracy"] + 0.1
    assert facts["submit_to_ready_ms"]["count"] > 0
    assert left_behind(tmp_path) == []


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_no_process_behind_when_interrupted(
    tmp_path: Path, number: signal.Signals
) -> None:
    with started_demo(tmp_path, until="training") as demo:
        assert left_behind(tmp_path)
        wait_until(lambda: reports(tmp_path) > 2, "reports of the training", 180, poll_s=0.2)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=180)
    wait_until(lambda: not left_behind(tmp_path), "every process to end")
    assert "Traceback" not in output
    assert demo.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 130)
