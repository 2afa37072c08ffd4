"""Every example runs as its docstring says, against real services."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import esper
from esper.audit import audit, fetch_history
from esper.blueprint import shipped
from esper.workers.cli import publish_blueprints
from tests.system.conftest import Running

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 300

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def published(running: Running) -> Iterator[Running]:
    publish_blueprints(running.settings, shipped())
    yield running


def run(published: Running, *command: str | Path) -> str:
    """Run an example in the environment of a user, and return its output."""
    settings = published.settings
    environment = os.environ | {
        "ESPER_HOME": str(settings.home),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "ESPER_REDIS_URL": settings.redis_url or "",
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run_id(output: str) -> str:
    found = re.search(r"run (\S+):", output)
    assert found is not None, output
    return found[1]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_examples_import_esper_alone(file: Path) -> None:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] != "esper"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "esper":
            assert node.attr in esper.__all__, node.attr


def test_a_grown_run_is_audited_and_replayed(published: Running, tmp_path: Path) -> None:
    grown = run(published, EXAMPLES / "grow.py", "--epochs", "4", "--export", tmp_path / "grown")
    assert (tmp_path / "grown" / "model.py").exists()
    log = fetch_history(published.settings.kafka_bootstrap_servers, run_id(grown))
    result = audit(log)
    assert result.identical
    assert result.closed
    esper_command = ("-m", "esper.workers", "history", "export", run_id(grown))
    history, kernels = tmp_path / "history.jsonl", tmp_path / "kernels"
    run(published, *esper_command, history, "--kernels", kernels)
    replayed = run(published, EXAMPLES / "replay.py", history, kernels, "--epochs", "4")
    assert "every report is as recorded" in replayed


def test_a_stopped_run_is_resumed_and_audited(published: Running, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    stopped = run(published, EXAMPLES / "resume.py", checkpoint, "--stop-after", "150")
    finished = run(published, EXAMPLES / "resume.py", checkpoint)
    assert "finished" in finished
    assert run_id(stopped) == run_id(finished)
    servers = published.settings.kafka_bootstrap_servers
    assert audit(fetch_history(servers, run_id(finished))).identical


def test_another_policy_and_a_tournament_decide(published: Running) -> None:
    output = run(published, EXAMPLES / "selection.py", "--epochs", "4")
    found = re.search(r"(\d+) decisions", output)
    assert found is not None
    assert int(found[1]) > 1


def test_two_ranks_grow_one_model(published: Running) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = run(published, *torchrun, EXAMPLES / "ddp.py", "--epochs", "4")
    servers = published.settings.kafka_bootstrap_servers
    assert audit(fetch_history(servers, run_id(output))).identical
