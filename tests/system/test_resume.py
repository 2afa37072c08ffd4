"""A trainer that is killed goes on from its file, to the bits of one that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from esper.audit import audit, fetch_history
from esper.blueprint import shipped_named
from tests.system.conftest import Running
from workers.local.kafka import KafkaService
from workers.submit import publish_blueprints

BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "conv-bottleneck", "squeeze-excite")
EPOCHS = 16
WAIT_S = 60.0


class Ended(NamedTuple):
    """What a training printed, and what it exported."""

    facts: dict[str, Any]
    weights: bytes
    operations: list[tuple[int, Any]]


class Command:
    """`esper train` in processes of its own, kept in one file."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._running, self._folder = running, folder
        self.file = folder / "training.pt"

    def start(self, *more: str) -> "subprocess.Popen[str]":
        words = ["train", "digits", "--lockstep", "--epochs", str(EPOCHS), "--seed", "3"]
        words += ["--checkpoint", str(self.file), "--export", str(self._folder / "grown"), *more]
        settings = self._running.settings
        return subprocess.Popen(
            [sys.executable, "-m", "workers", *words],
            env={
                **os.environ,
                "ESPER_HOME": str(settings.home),
                "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: "subprocess.Popen[str]") -> Ended:
        """Wait for the end of a training with --json, and read what it left."""
        said, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
        facts = json.loads(said)
        exported = Path(facts["exported"])
        lineage = json.loads((exported / "lineage.json").read_text())
        operations = [
            (one["outcome"]["step"], operation)
            for one in lineage["decisions"]
            for operation in one["decision"]["operations"]
        ]
        return Ended(facts, (exported / "weights.safetensors").read_bytes(), operations)

    def interrupt_within_an_epoch(self, process: "subprocess.Popen[str]", number: int) -> None:
        """Send a signal a while after the file was written the next time but one."""
        for _ in range(2):
            eventually(self._change(process))
        time.sleep(0.05)
        process.send_signal(number)

    def _change(self, process: "subprocess.Popen[str]") -> Callable[[], bool]:
        before = self._written()

        def changed() -> bool:
            assert process.poll() is None, process.communicate()
            return self._written() != before

        return changed

    def _written(self) -> int:
        return self.file.stat().st_mtime_ns if self.file.exists() else 0


def eventually(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not found():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """No other test's blueprints: a lockstep run begins with all that were ever published."""
    return own_kafka


@pytest.fixture(scope="module")
def undisturbed(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A training that nobody disturbs."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    command = Command(running, tmp_path_factory.mktemp("undisturbed"))
    ended = command.ended(command.start("--json"))
    assert not command.file.exists()
    return ended


def test_a_trainer_that_is_killed_twice_ends_with_the_bits_of_one_that_never_was(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    for _ in range(2):
        process = command.start()
        command.interrupt_within_an_epoch(process, signal.SIGKILL)
        said, _ = process.communicate()
    assert "going on after epoch" in said
    again = command.ended(command.start("--json"))

    assert again.operations == undisturbed.operations
    assert {operation["op"] for _, operation in again.operations} > {"plant"}
    assert again.weights == undisturbed.weights
    assert again.facts["steps"] == undisturbed.facts["steps"]
    assert again.facts["sealed"]
    verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, again.facts["run_id"]))
    assert verdict.identical, verdict
    assert verdict.closed


def test_a_trainer_that_is_told_to_stop_says_how_to_go_on_and_does(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    process = command.start()
    command.interrupt_within_an_epoch(process, signal.SIGTERM)
    said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "stopped; the same command goes on from" in " ".join(said.split())
    assert command.ended(command.start("--json")).weights == undisturbed.weights
