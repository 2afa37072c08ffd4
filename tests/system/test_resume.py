"""A trainer that is killed goes on from its file, to the bits of one that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from esper.audit import audit, fetch_history
from esper.blueprint import shipped_named
from esper.topics.bus import read_topic
from esper.topics.catalog import SEED_METRICS, TRAINING_RUN
from esper.topics.codec import decode
from esper.topics.models import RunStatus, SeedReport, TrainingRun
from esper.workers.cli import publish_blueprints
from esper.workers.local import KafkaService
from tests.system.conftest import Running
from tests.waiting import wait_until

BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "conv-bottleneck", "squeeze-excite")
EPOCHS = 16
WAIT_S = 60.0
PART_OF_AN_EPOCH_S = 0.02
"""An epoch takes some 0.2 s, with one report or two, and longer on a busy machine."""


class Ended(NamedTuple):
    """What a training printed, and what it exported."""

    facts: dict[str, Any]
    weights: bytes
    operations: list[tuple[int, Any]]


class Kept(NamedTuple):
    """What the file of a training that is under way says."""

    run_id: str
    epoch: int
    steps: int
    planted: int


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
            [sys.executable, "-m", "esper.workers", *words],
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

    def interrupt_within_an_epoch(self, process: "subprocess.Popen[str]", number: int) -> Kept:
        """Send a signal while a kernel is planted and recorded reports are newer than the file."""
        for _ in range(2):
            wait_until(self._change(process), "a new checkpoint", WAIT_S, poll_s=0.002)
        while not self._halted_within_an_epoch(process):
            process.send_signal(signal.SIGCONT)
            assert process.poll() is None, process.communicate()
            time.sleep(PART_OF_AN_EPOCH_S)
        kept = self.kept()
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        return kept

    def kept(self) -> Kept:
        state = torch.load(self.file, weights_only=True)
        growth = json.loads(state["growth"]["growth"])
        return Kept(growth["run"]["run_id"], state["epoch"], state["steps"], len(growth["planted"]))

    def reports(self, run_id: str) -> list[SeedReport]:
        servers = self._running.settings.kafka_bootstrap_servers
        records = read_topic(servers, SEED_METRICS.name, key=run_id.encode())
        return [decode(SeedReport, record.value) for record in records]

    def status(self, run_id: str) -> RunStatus:
        servers = self._running.settings.kafka_bootstrap_servers
        record = read_topic(servers, TRAINING_RUN.name, key=run_id.encode())[-1]
        return decode(TrainingRun, record.value).status

    def _halted_within_an_epoch(self, process: "subprocess.Popen[str]") -> bool:
        process.send_signal(signal.SIGSTOP)
        kept = self.kept()
        return kept.planted > 0 and self.reports(kept.run_id)[-1].step > kept.steps

    def _change(self, process: "subprocess.Popen[str]") -> Callable[[], bool]:
        before = self._written()

        def changed() -> bool:
            assert process.poll() is None, process.communicate()
            return self._written() != before

        return changed

    def _written(self) -> int:
        return self.file.stat().st_mtime_ns if self.file.exists() else 0


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
        kept = command.interrupt_within_an_epoch(process, signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert "resuming after epoch" in said
    again = command.ended(command.start("--json"))

    assert again.facts["run_id"] == kept.run_id
    assert again.facts["went_on_after_epoch"] == kept.epoch
    assert max(step for step, _ in again.operations) > kept.steps
    assert again.operations == undisturbed.operations
    assert {operation["op"] for _, operation in again.operations} > {"plant"}
    assert again.weights == undisturbed.weights
    assert again.facts["steps"] == undisturbed.facts["steps"]
    assert again.facts["sealed"]
    verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, again.facts["run_id"]))
    assert verdict.identical, verdict
    assert verdict.closed
    reports = command.reports(kept.run_id)
    assert [report.seq for report in reports] == list(range(len(reports)))


def test_a_trainer_that_is_told_to_stop_says_how_to_go_on_and_does(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    process = command.start()
    kept = command.interrupt_within_an_epoch(process, signal.SIGTERM)
    said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "stopped; the same command resumes from" in " ".join(said.split())
    assert command.status(kept.run_id) is RunStatus.OPEN
    again = command.ended(command.start("--json"))
    assert again.facts["run_id"] == kept.run_id
    assert command.status(kept.run_id) is RunStatus.CLOSED
    assert again.weights == undisturbed.weights


def test_a_file_whose_run_was_closed_is_named_with_what_to_do(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    process = command.start("--epochs", "2", "--json")
    wait_until(command._change(process), "a new checkpoint", WAIT_S)
    shutil.copy(command.file, tmp_path / "copy.pt")
    command.ended(process)
    shutil.copy(tmp_path / "copy.pt", command.file)
    again = command.start("--epochs", "2", "--json")
    _, errors = again.communicate(timeout=WAIT_S)
    assert again.returncode == 1
    assert f"esper: {command.file} cannot be resumed: run" in errors
    assert errors.strip().endswith("or remove the file to start again")
