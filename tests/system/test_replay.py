"""Runs of shipped tasks, recorded on real services, and replayed when all of those are gone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from esper.blueprint import shipped_named
from tests.system.conftest import Running
from workers.local.kafka import KafkaService
from workers.submit import publish_blueprints

BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "dropout-mlp", "conv-bottleneck", "image-conv")
EPOCHS = {"digits": 24, "conv-teacher": 16}
WAIT_S = 120.0


class Recorded(NamedTuple):
    """A run that has ended: what it exported, and its history with its kernels beside."""

    task: str
    facts: dict[str, Any]
    folder: Path
    history: Path
    kernels: Path
    key: Path

    def exported(self, name: str) -> bytes:
        return (Path(self.facts["exported"]) / name).read_bytes()

    @property
    def operations(self) -> list[tuple[str, str]]:
        """What was asked for and what became of it, in order."""
        lineage = json.loads(self.exported("lineage.json"))
        return [
            (operation["op"], (each["outcome"] or {"status": "unanswered"})["status"])
            for each in lineage["decisions"]
            for operation in each["decision"]["operations"]
        ]


def command(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `esper` in a process of its own, which knows of nothing but this environment."""
    return subprocess.run(
        [sys.executable, "-m", "workers", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def bare(**more: str) -> dict[str, str]:
    """The environment without an address of anything."""
    ours = ("ESPER_", "KAFKA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """No other test's blueprints: a lockstep run begins with all that were ever published."""
    return own_kafka


@pytest.fixture(scope="module")
def recorded(
    running: Running, kafka: KafkaService, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Recorded]:
    """An ordinary run and a lockstep one of two tasks; then the workers and the broker end."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    environment = bare(
        ESPER_HOME=str(running.settings.home),
        KAFKA_BOOTSTRAP_SERVERS=running.settings.kafka_bootstrap_servers,
    )
    runs = {
        "ordinary": record(environment, tmp_path_factory.mktemp("ordinary"), "digits", "2"),
        "lockstep": record(
            environment, tmp_path_factory.mktemp("lockstep"), "digits", "3", "--lockstep"
        ),
        "teacher": record(environment, tmp_path_factory.mktemp("teacher"), "conv-teacher", "0"),
    }
    running.stack.stop()
    kafka.stop()
    return runs


def record(
    environment: dict[str, str], folder: Path, task: str, seed: str, *more: str
) -> Recorded:
    words = ("--seed", seed, "--epochs", str(EPOCHS[task]), "--no-memory", "--json")
    trained = command(environment, "train", task, *words, "--export", str(folder / "grown"), *more)
    assert trained.returncode == 0, trained.stderr
    facts = json.loads(trained.stdout)
    history, kernels = folder / "history.jsonl", folder / "kernels"
    exporting = ("history", "export", facts["run_id"], str(history), "--kernels", str(kernels))
    exported = command(environment, *exporting)
    assert exported.returncode == 0, exported.stderr
    key = shutil.copy(Path(environment["ESPER_HOME"]) / "keys" / "trusted-key.pem", folder)
    return Recorded(task, facts, folder, history, kernels, Path(key))


def replayed(run: Recorded, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """Replay a run in a fresh process, without an address of anything."""
    words = ("--replay", str(run.history), "--kernels", str(run.kernels))
    words = (*words, "--epochs", str(EPOCHS[run.task]), "--export", str(folder), "--json")
    environment = bare(ESPER_HOME=str(folder / "home"), ESPER_TRUSTED_KEY_FILE=str(run.key))
    return command(environment, "train", run.task, *words, *more)


def altered(run: Recorded, folder: Path, change: Callable[[dict[str, Any]], bool]) -> Recorded:
    """The same with a history in which the first record that `change` changes is changed."""
    header, *lines = map(orjson.loads, run.history.read_bytes().splitlines())
    for line in lines:
        value = orjson.loads(line["value"])
        if change(value):
            line["value"] = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
            break
    else:
        pytest.fail("nothing was changed")
    file = folder / "altered.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, [header, *lines])) + b"\n")
    return run._replace(history=file)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["ordinary", "lockstep", "teacher"])
def test_a_replay_without_any_service_ends_with_the_bytes_of_the_run(
    recorded: dict[str, Recorded], tmp_path: Path, name: str
) -> None:
    run = recorded[name]
    assert ("plant", "applied") in run.operations
    assert {("cull", "applied"), ("fossilize", "applied")} & set(run.operations)
    again = replayed(run, tmp_path)
    assert again.returncode == 0, again.stderr
    facts = json.loads(again.stdout)
    assert facts["replay"]["identical"]
    assert facts["run_id"] == run.facts["run_id"]
    assert facts["seeds"] == run.facts["seeds"]
    for file in ("weights.safetensors", "model.py", "lineage.json"):
        assert (Path(facts["exported"]) / file).read_bytes() == run.exported(file)
