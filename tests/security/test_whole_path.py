"""From a blueprint to a changed forward pass, each process under its own principal, over TLS."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from esper.audit import audit, fetch_history
from esper.blueprint import shipped
from esper.settings import Settings
from esper.signing import KeyPaths, create_keys
from esper.topics.bus import create_topics
from esper.topics.models import OutcomeStatus
from esper.workers.cli import publish_blueprints
from esper.workers.local.ports import free_port
from tests.security.conftest import RedisAccess, kafka_environment
from tests.security.secured_kafka import SecuredKafka
from tests.system.training import Training
from tests.waiting import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

MARK = "hunter2"
"""Every password of this test has it."""


@dataclass(frozen=True)
class Deployment:
    """The environment of each role, and the workers' metrics ports and logs."""

    folder: Path
    environments: dict[str, dict[str, str]]
    ports: dict[str, int]

    def settings(self, role: str) -> Settings:
        """Return the settings of a process in a role."""
        return Settings.model_validate(self.environments[role])

    def log(self, worker: str) -> Path:
        """Return the file of a worker's output."""
        return self.folder / f"{worker}.log"

    def page(self, worker: str, path: str) -> str:
        """Return a page of a worker's metrics server; empty while it does not answer."""
        try:
            url = f"http://127.0.0.1:{self.ports[worker]}{path}"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


@pytest.fixture(scope="module")
def deployment(
    secured: SecuredKafka, redis: RedisAccess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Both workers, as one starts them, on the secured services."""
    folder = tmp_path_factory.mktemp("deployment")
    keys = create_keys(folder / "keys")
    environments = {
        role: environment_of(role, secured, redis, folder, keys)
        for role in ("author", "compile", "bandit", "trainer", "auditor", "operator")
    }
    running = Deployment(folder, environments, {"compile": free_port(), "bandit": free_port()})
    create_topics(running.settings("operator").kafka)
    with ExitStack() as stack:
        for worker in running.ports:
            stack.enter_context(worker_process(worker, running))
        for worker in running.ports:
            wait_until(lambda: running.page(worker, "/healthz"), f"a healthy {worker} worker")  # noqa: B023
        publish_blueprints(running.settings("author"), shipped())
        yield running


def environment_of(
    role: str, secured: SecuredKafka, redis: RedisAccess, folder: Path, keys: KeyPaths
) -> dict[str, str]:
    """Return the variables of a role: only workers have the signing key."""
    environment = kafka_environment(secured, f"esper-{role}", folder / role)
    if role in ("compile", "bandit", "trainer"):
        environment |= redis.environment(f"esper-{role}")
    if role in ("compile", "bandit"):
        environment["ESPER_SIGNING_KEY_FILE"] = str(keys.private)
    return environment | {"ESPER_TRUSTED_KEY_FILE": str(keys.public)}


@contextmanager
def worker_process(name: str, running: Deployment) -> Iterator[None]:
    """Run a worker during the block; it must end in order."""
    environment = {
        **os.environ,
        **running.environments[name],
        "ESPER_METRICS_PORT": str(running.ports[name]),
    }
    with running.log(name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "esper.workers", "worker", name],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(240) == 0, running.log(name).read_text()


@dataclass(frozen=True)
class _Running:
    """What `Training` needs of a running stack."""

    settings: Settings


def test_a_decision_changes_the_forward_pass_with_security_on(deployment: Deployment) -> None:
    training = Training(_Running(deployment.settings("trainer")))  # type: ignore[arg-type]
    with training.growth as growth:
        site, _ = training.until_planted()
        for _ in range(20):
            training.step()
        x = torch.randn(5, *site.signature.x)
        with torch.no_grad():
            assert not torch.equal(site.layer(x), type(site.layer).forward(site.layer, x))
        assert any(
            outcome.status is OutcomeStatus.APPLIED
            for outcome in growth.run_history.outcomes.values()
        )
        assert_no_process_shows_a_secret()
    verdict = audit(fetch_history(deployment.settings("auditor").kafka, growth.run_id))
    assert verdict.finding is None and verdict.closed


def test_nothing_that_is_printed_or_served_shows_a_secret(deployment: Deployment) -> None:
    trained = subprocess.run(
        [sys.executable, "-m", "esper.workers", "train", "digits", "--epochs", "2"],
        env=os.environ | deployment.environments["trainer"],
        cwd=deployment.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    assert MARK not in trained.stdout + trained.stderr
    for worker in deployment.ports:
        metrics, printed = deployment.page(worker, "/metrics"), deployment.log(worker).read_text()
        assert "esper_records_total" in metrics and printed
        assert MARK not in metrics + printed
    for role in deployment.environments:
        assert MARK not in repr(deployment.settings(role))


def assert_no_process_shows_a_secret() -> None:
    """Check the arguments and variables of this process's descendants: workers, link, servers."""
    processes = psutil.Process().children(recursive=True)
    modules = " ".join(word for process in processes for word in process.cmdline())
    assert "esper.link.sidecar" in modules and "esper.workers" in modules
    for process in processes:
        assert MARK not in " ".join(process.cmdline())
        assert MARK not in " ".join(process.environ().values())
