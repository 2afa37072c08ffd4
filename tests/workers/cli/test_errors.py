"""Errors of the `esper` command: one line with a remedy, and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper.workers.local.ports import free_port


def esper(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment without addresses of services."""
    unset = ("KAFKA_BOOTSTRAP_SERVERS", "ESPER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return subprocess.run(
        [sys.executable, "-m", "esper.workers", *words],
        env=kept | {"ESPER_HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def keys(home: Path) -> dict[str, str]:
    """Create a key pair; return the setting of its public key."""
    assert esper("keys", "create", str(home / "keys"), home=home).returncode == 0
    return {"ESPER_TRUSTED_KEY_FILE": str(home / "keys" / "trusted-key.pem")}


def test_training_without_a_broker_names_the_remedy(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    ended = esper(
        "train", "digits", home=tmp_path, KAFKA_BOOTSTRAP_SERVERS=nowhere, **keys(tmp_path)
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("esper: no Kafka broker answers at")
    assert "esper up" in last
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("worker", ["compile", "bandit"])
def test_a_worker_without_a_signing_key_names_the_setting(tmp_path: Path, worker: str) -> None:
    ended = esper("worker", worker, home=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line == (
        "esper: no signing key: set ESPER_SIGNING_KEY_FILE; `esper keys create` makes a key pair"
    )


def test_training_without_a_key_names_the_setting(tmp_path: Path) -> None:
    ended = esper("train", "digits", home=tmp_path)
    assert ended.returncode == 1
    assert "ESPER_TRUSTED_KEY_FILE" in ended.stderr


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    file.write_text("not a checkpoint")
    ended = esper("train", "digits", "--checkpoint", str(file), home=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line == (
        f"esper: {file} is no checkpoint of a training; name another file, or remove it"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("audit",),
        ("audit", "run", "--history", "file"),
        ("train", "unknown-task"),
        ("blueprint", "show", "no-such-blueprint"),
        ("blueprint", "publish"),
        ("blueprint", "check", "no-such-file.json"),
        ("worker", "unknown"),
        ("no-such-command",),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_with_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = esper(*words, home=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_audit_without_records_exits_with_2(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    assert esper("audit", "a-run", home=tmp_path, KAFKA_BOOTSTRAP_SERVERS=nowhere).returncode == 2
    assert esper("audit", "--history", "missing.jsonl", home=tmp_path).returncode == 2


def test_checking_an_invalid_blueprint_names_the_invalid_part(tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(
        '{"blueprint_id": "wrong", "kind": "vector", "output": "a",'
        ' "nodes": [{"id": "a", "op": "rm_rf", "inputs": ["h"]}]}'
    )
    ended = esper("blueprint", "check", str(file), home=tmp_path)
    assert ended.returncode == 1
    assert "rm_rf" in ended.stdout


def test_existing_keys_are_kept(tmp_path: Path) -> None:
    keys(tmp_path)
    before = (tmp_path / "keys" / "signing-key.pem").read_bytes()
    again = esper("keys", "create", str(tmp_path / "keys"), home=tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "keys" / "signing-key.pem").read_bytes() == before


def test_a_worker_without_a_signing_key_names_the_remedy(tmp_path: Path) -> None:
    ended = esper("worker", "compile", home=tmp_path)
    assert ended.returncode == 1
    assert "esper keys create" in ended.stderr


def test_help_does_not_load_torch(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, esper.workers.cli; sys.exit('torch' in sys.modules)",
        ],
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 0
