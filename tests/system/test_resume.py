"""A killed trainer resumes from its checkpoint and ends with the weights of an undisturbed one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
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
WAIT_S = 300.0
PART_OF_AN_EPOCH_CPU_S = 0.02
"""An epoch takes about 0.2 s of CPU time and has one or two reports."""

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


class Ended(NamedTuple):
    """The printed facts and the export of a training."""

    facts: dict[str, Any]
    weights: bytes
    operations: list[tuple[int, Any]]


class Checkpoint(NamedTuple):
    """The contents of a checkpoint."""

    run_id: str
    epoch: int
    steps: int
    planted: int


class Command:
    """Runs `esper train` in processes that share one checkpoint file."""

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
        """Wait for the end of a training with --json; return its results."""
        output, errors = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, errors
        facts = json.loads(output)
        exported = Path(facts["exported"])
        lineage = json.loads((exported / "lineage.json").read_text())
        operations = [
            (decision["outcome"]["step"], operation)
            for decision in lineage["decisions"]
            for operation in decision["decision"]["operations"]
        ]
        return Ended(facts, (exported / "weights.safetensors").read_bytes(), operations)

    def interrupt_within_an_epoch(
        self, process: "subprocess.Popen[str]", number: int
    ) -> Checkpoint:
        """Send a signal while a kernel is planted and a report is newer than the checkpoint."""
        for _ in range(2):
            wait_until(self._change(process), "a new checkpoint", WAIT_S, poll_s=0.002)
        while not self._halted_within_an_epoch(process):
            process.send_signal(signal.SIGCONT)
            assert process.poll() is None, process.communicate()
            self._compute(process, PART_OF_AN_EPOCH_CPU_S)
        checkpoint = self.checkpoint()
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        return checkpoint

    def checkpoint(self) -> Checkpoint:
        state = torch.load(self.file, weights_only=True)
        growth = json.loads(state["growth"]["growth"])
        return Checkpoint(
            growth["run"]["run_id"], state["epoch"], state["steps"], len(growth["planted"])
        )

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
        checkpoint = self.checkpoint()
        return (
            checkpoint.planted > 0 and self.reports(checkpoint.run_id)[-1].step > checkpoint.steps
        )

    def _compute(self, process: "subprocess.Popen[str]", cpu_s: float) -> None:
        """Wait until the process has used CPU time, or has ended."""
        end = _cpu_s(process) + cpu_s
        wait_until(
            lambda: process.poll() is not None or _cpu_s(process) >= end,
            "CPU time of the trainer",
            WAIT_S,
            poll_s=0.002,
        )

    def _change(self, process: "subprocess.Popen[str]") -> Callable[[], bool]:
        before = self._written()

        def changed() -> bool:
            assert process.poll() is None, process.communicate()
            return self._written() != before

        return changed

    def _written(self) -> int:
        return self.file.stat().st_mtime_ns if self.file.exists() else 0


def _cpu_s(process: "subprocess.Popen[str]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def undisturbed(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A training without interruption."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    command = Command(running, tmp_path_factory.mktemp("undisturbed"))
    ended = command.ended(command.start("--json"))
    assert not command.file.exists()
    return ended


def test_a_trainer_killed_twice_ends_with_the_weights_of_an_undisturbed_one(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    for _ in range(2):
        process = command.start()
        checkpoint = command.interrupt_within_an_epoch(process, signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert "resuming after epoch" in output
    resumed = command.ended(command.start("--json"))

    assert resumed.facts["run_id"] == checkpoint.run_id
    assert resumed.facts["went_on_after_epoch"] == checkpoint.epoch
    assert max(step for step, _ in resumed.operations) > checkpoint.steps
    assert resumed.operations == undisturbed.operations
    assert {operation["op"] for _, operation in resumed.operations} > {"plant"}
    assert resumed.weights == undisturbed.weights
    assert resumed.facts["steps"] == undisturbed.facts["steps"]
    assert resumed.facts["sealed"]
    verdict = audit(
        fetch_history(running.settings.kafka_bootstrap_servers, resumed.facts["run_id"])
    )
    assert verdict.identical, verdict
    assert verdict.closed
    reports = command.reports(checkpoint.run_id)
    assert [report.seq for report in reports] == list(range(len(reports)))


def test_a_trainer_stopped_by_sigterm_prints_how_to_resume_and_resumes(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    command = Command(running, tmp_path)
    process = command.start()
    checkpoint = command.interrupt_within_an_epoch(process, signal.SIGTERM)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "stopped; the same command resumes from" in " ".join(output.split())
    assert command.status(checkpoint.run_id) is RunStatus.OPEN
    resumed = command.ended(command.start("--json"))
    assert resumed.facts["run_id"] == checkpoint.run_id
    assert command.status(checkpoint.run_id) is RunStatus.CLOSED
    assert resumed.weights == undisturbed.weights


def test_a_trainer_killed_between_closing_its_run_and_the_export_is_completed(
    running: Running, undisturbed: Ended, tmp_path: Path
) -> None:
    """The checkpoint is removed only after the export, so at that moment it was still there."""
    command = Command(running, tmp_path)
    process = command.start("--epochs", "2", "--json")
    wait_until(command._change(process), "a new checkpoint", WAIT_S)
    shutil.copy(command.file, tmp_path / "copy.pt")
    ended = command.ended(process)
    shutil.copy(tmp_path / "copy.pt", command.file)
    shutil.rmtree(ended.facts["exported"])
    reports = command.reports(ended.facts["run_id"])
    completed = command.ended(command.start("--epochs", "2", "--json"))
    assert completed.facts["run_id"] == ended.facts["run_id"]
    assert completed.facts["sealed"]
    assert completed.weights == ended.weights
    assert completed.operations == ended.operations
    assert command.reports(ended.facts["run_id"]) == reports
