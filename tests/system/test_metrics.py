"""The metrics of the workers count the events of a run."""

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
    """Yield the samples of a worker's metrics page."""
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    port = state.require_process(worker).metrics_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        yield from family.samples


def metrics(running: Running, worker: str) -> dict[str, float]:
    """Return a worker's samples by name, summed over labels."""
    sums: dict[str, float] = {}
    for sample in samples(running, worker):
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def labelled(running: Running, worker: str, name: str) -> dict[str, float]:
    """Return the values of a sample by their labels other than the topic."""
    found: dict[str, float] = {}
    for sample in samples(running, worker):
        if sample.name == name:
            labels = [value for label, value in sample.labels.items() if label != "topic"]
            found["".join(labels)] = sample.value
    return found


def reached(running: Running, worker: str, expected: dict[str, int]) -> bool:
    """Return whether a worker's samples have at least the expected values."""
    found = metrics(running, worker)
    return all(found.get(name, -1.0) >= least for name, least in expected.items())


def test_workers_count_kernels_reports_and_decisions(running: Running) -> None:
    publish_blueprints(running.settings, shipped())
    training = Training(running, seed=7)
    with training.growth:
        training.until_planted()
    kernels = len(training.growth.run_history.kernels)
    decisions = len(training.growth.run_history.decisions)
    assert kernels > 0
    # The workers also process the records of other tests, hence "at least".
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
