"""What the workers tell Prometheus is what happened."""

import urllib.request
from collections.abc import Iterator
from functools import partial

from prometheus_client.metrics_core import Sample
from prometheus_client.parser import text_string_to_metric_families

from esper.blueprint import shipped
from esper.workers.cli import publish_blueprints
from esper.workers.local import read_state
from tests.system.conftest import Running
from tests.system.training import Training
from tests.waiting import wait_until


def samples(running: Running, worker: str) -> Iterator[Sample]:
    """Everything a worker of the stack measures."""
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    port = state.require_process(worker).metrics_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        yield from family.samples


def metrics(running: Running, worker: str) -> dict[str, float]:
    """The sums over labels of what a worker of the stack measures, by sample name."""
    sums: dict[str, float] = {}
    for sample in samples(running, worker):
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def labelled(running: Running, worker: str, name: str) -> dict[str, float]:
    """What a worker has under one sample name, by the label that is not the topic."""
    found: dict[str, float] = {}
    for sample in samples(running, worker):
        if sample.name == name:
            labels = [value for label, value in sample.labels.items() if label != "topic"]
            found["".join(labels)] = sample.value
    return found


def reached(running: Running, worker: str, expected: dict[str, int]) -> bool:
    """Whether a worker measures at least what is expected."""
    found = metrics(running, worker)
    return all(found.get(name, -1.0) >= least for name, least in expected.items())


def test_workers_count_what_they_did(running: Running) -> None:
    publish_blueprints(running.settings, shipped())
    training = Training(running, seed=7)
    with training.growth:
        training.until_planted()
    kernels = len(training.growth.run_history.kernels)
    decisions = len(training.growth.run_history.decisions)
    assert kernels > 0
    # The workers also work off what other tests left on the topics, hence "at least".
    at_least = {
        "compile": {
            "esper_kernels_requested_total": kernels,
            "esper_kernels_compiled_total": 1,
            "esper_build_seconds_count": 1,
            "esper_request_to_ready_seconds_count": 1,
            "esper_known_blueprints": len(shipped()),
        },
        "bandit": {
            "esper_reports_folded_total": 2,
            "esper_decisions_total": decisions,
            "esper_report_to_decision_seconds_count": decisions,
        },
    }
    for worker, expected in at_least.items():
        wait_until(partial(reached, running, worker, expected), f"the metrics of {worker}")
