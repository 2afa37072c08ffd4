"""Runs of shipped tasks, recorded on real services and replayed after the services stopped."""

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
from esper.workers.cli import publish_blueprints
from esper.workers.local import KafkaService
from tests.system.conftest import Running

BLUEPRINTS = ("low-rank-skip", "gated-linear-unit", "dropout-mlp", "conv-bottleneck", "image-conv")
EPOCHS = {"digits": 24, "conv-teacher": 16}
WAIT_S = 300.0

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


class Recorded(NamedTuple):
    """An ended run: its export, its history file and its kernels."""

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
        """Kind and outcome of every operation, in order."""
        lineage = json.loads(self.exported("lineage.json"))
        return [
            (operation["op"], (decision["outcome"] or {"status": "unanswered"})["status"])
            for decision in lineage["decisions"]
            for operation in decision["decision"]["operations"]
        ]


def command(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `esper` in a process with this environment alone."""
    return subprocess.run(
        [sys.executable, "-m", "esper.workers", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def without_services(**more: str) -> dict[str, str]:
    """Return the environment without the variables of Esper and Kafka."""
    ours = ("ESPER_", "KAFKA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """A broker without other tests' blueprints; a lockstep run starts with all published ones."""
    return own_kafka


@pytest.fixture(scope="module")
def recorded(
    running: Running, kafka: KafkaService, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Recorded]:
    """Record an ordinary and two more runs, of two tasks; then stop workers and broker."""
    publish_blueprints(running.settings, map(shipped_named, BLUEPRINTS))
    environment = without_services(
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


def record(environment: dict[str, str], folder: Path, task: str, seed: str, *more: str) -> Recorded:
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
    """Replay a run in a fresh process without addresses of services."""
    words = ("--replay", str(run.history), "--kernels", str(run.kernels))
    words = (*words, "--epochs", str(EPOCHS[run.task]), "--export", str(folder), "--json")
    environment = without_services(
        ESPER_HOME=str(folder / "home"), ESPER_TRUSTED_KEY_FILE=str(run.key)
    )
    return command(environment, "train", run.task, *words, *more)


def altered(run: Recorded, folder: Path, change: Callable[[dict[str, Any]], bool]) -> Recorded:
    """Return the run with a history whose first record that `change` accepts is changed."""
    header, *lines = map(orjson.loads, run.history.read_bytes().splitlines())
    for line in lines:
        value = orjson.loads(line["value"])
        if change(value):
            line["value"] = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
            break
    else:
        pytest.fail("no record was changed")
    file = folder / "altered.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, [header, *lines])) + b"\n")
    return run._replace(history=file)


@pytest.mark.parametrize("name", ["ordinary", "lockstep", "teacher"])
def test_a_replay_without_services_exports_the_bytes_of_the_run(
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


def test_the_history_of_a_replay_passes_the_audit(recorded: dict[str, Recorded]) -> None:
    for run in recorded.values():
        audited = command(without_services(), "audit", "--history", str(run.history))
        assert audited.returncode == 0, audited.stdout


def test_a_decision_applied_one_step_later_is_named_at_the_first_report_that_differs(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    steps: list[int] = []

    def postpone(value: dict[str, Any]) -> bool:
        for outcome in value.get("outcomes", ()):
            if outcome["status"] == "applied":
                outcome["step"] += 1
                steps.append(outcome["step"])
                return True
        return False

    run = altered(recorded["lockstep"], tmp_path, postpone)
    again = replayed(run, tmp_path)
    assert again.returncode == 1
    replay = json.loads(again.stdout)["replay"]
    assert not replay["identical"]
    assert replay["first"]["what"] == "the training loss"
    assert replay["first"]["step"] >= steps[0]
    assert "differs: report" in replay["why"]
    assert "\n" not in replay["why"]


def test_a_replay_shorter_than_the_record_is_an_error_and_a_longer_one_ends_with_it(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    run = recorded["lockstep"]
    short = replayed(run, tmp_path, "--epochs", "3")
    assert short.returncode == 1
    assert "and the recording continues to step" in json.loads(short.stdout)["replay"]["why"]
    long = replayed(run, tmp_path, "--epochs", str(3 * EPOCHS[run.task]))
    assert long.returncode == 0, long.stderr
    assert json.loads(long.stdout)["steps"] == run.facts["steps"]


def test_another_task_is_refused_before_the_first_step(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    again = replayed(recorded["lockstep"]._replace(task="conv-teacher"), tmp_path)
    assert again.returncode == 1
    assert "is of another model or of other sites (conv1, conv2, fc1; 862" in again.stderr


def test_an_altered_or_missing_kernel_is_refused_in_one_line(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    kernels = shutil.copytree(recorded["lockstep"].kernels, tmp_path / "kernels")
    run = recorded["lockstep"]._replace(kernels=Path(kernels))
    file = next(Path(kernels).rglob("*.safetensors"))
    data = file.read_bytes()
    for content, message in (
        (data[:-1] + bytes([data[-1] ^ 1]), "the bytes changed after validation"),
        (data + b" ", f"has {len(data) + 1} bytes with SHA-256"),
        (None, f"no kernel at {file.parent.name}"),
    ):
        file.unlink(missing_ok=True) if content is None else file.write_bytes(content)
        again = replayed(run, tmp_path)
        assert again.returncode == 1
        assert message in again.stderr
        assert len(again.stderr.splitlines()) == 1


def test_a_kernel_signed_by_another_key_is_refused(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    made = command(without_services(ESPER_HOME=str(tmp_path / "other")), "keys", "create")
    assert made.returncode == 0, made.stderr
    key = tmp_path / "other" / "keys" / "trusted-key.pem"
    again = replayed(recorded["lockstep"]._replace(key=key), tmp_path)
    assert again.returncode == 1
    assert "the signature is not of this kernel-ready by a trusted key" in again.stderr


def test_a_history_with_unknown_content_is_refused_in_one_line(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    def add_operation(value: dict[str, Any]) -> bool:
        for operation in value.get("operations", ()):
            operation["op"] = "transplant"
            return True
        return False

    def add_field(value: dict[str, Any]) -> bool:
        for operation in value.get("operations", ()):
            operation["depth"] = 2
            return True
        return False

    def add_status(value: dict[str, Any]) -> bool:
        for outcome in value.get("outcomes", ()):
            outcome["status"] = "postponed"
            return True
        return False

    for change, message in (
        (add_operation, "cannot be decoded by this version: AdaptationDecision: operations.0"),
        (add_field, "has operations[0].depth, which this version does not know"),
        (add_status, "cannot be decoded by this version: SeedReport: outcomes.0.status"),
    ):
        again = replayed(altered(recorded["lockstep"], tmp_path, change), tmp_path)
        assert again.returncode == 1
        assert message in again.stderr
        assert len(again.stderr.splitlines()) == 1


def test_a_history_without_a_decision_that_was_applied_is_refused(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    run = recorded["lockstep"]
    lines = run.history.read_bytes().splitlines()
    index = next(index for index, line in enumerate(lines) if b'\\"op\\":\\"plant\\"' in line)
    file = tmp_path / "cut.jsonl"
    file.write_bytes(b"\n".join(lines[:index] + lines[index + 1 :]) + b"\n")
    again = replayed(run._replace(history=file), tmp_path)
    assert again.returncode == 1
    assert "recorded as applied at step" in again.stderr
    assert "is not in the history" in again.stderr


@pytest.mark.parametrize(
    "more", [("--seed", "3"), ("--lockstep",), ("--policy", "random"), ("--checkpoint", "x.pt")]
)
def test_options_without_effect_in_a_replay_are_usage_errors(
    recorded: dict[str, Recorded], tmp_path: Path, more: tuple[str, ...]
) -> None:
    again = replayed(recorded["lockstep"], tmp_path, *more)
    assert again.returncode == 2
    assert more[0] in again.stderr


def test_the_static_final_of_an_exported_run_is_trained_without_services(
    recorded: dict[str, Recorded], tmp_path: Path
) -> None:
    run = recorded["lockstep"]
    words = ("--static-final", run.facts["exported"], "--kernels", str(run.kernels), "--json")
    environment = without_services(
        ESPER_HOME=str(tmp_path / "home"), ESPER_TRUSTED_KEY_FILE=str(run.key)
    )
    again = command(environment, "train", run.task, *words, "--seed", "3", "--epochs", "4")
    assert again.returncode == 0, again.stderr
    facts = json.loads(again.stdout)
    assert facts["grown"]["test_accuracy"] == pytest.approx(run.facts["test_accuracy"])
    assert facts["grown"]["params"] == run.facts["params"]
    merged = [
        seed for seed in json.loads(run.exported("lineage.json"))["seeds"] if "merged" in seed
    ]
    assert facts["static_final"]["params"] == run.facts["params"] + sum(
        seed["params"] for seed in merged
    )
    assert 0 < facts["static_final"]["test_accuracy"] <= 1
    assert (Path(facts["exported"]) / "weights.safetensors").exists()
