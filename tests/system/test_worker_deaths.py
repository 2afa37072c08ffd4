"""Workers killed in the middle of a run: no report is lost, no decision is applied twice."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice

import pytest

from esper.audit import audit, cause_of, fetch_history
from esper.blueprint import shipped
from esper.orchestrator import FoldState, fold
from esper.topics.bus import Bus, Record, RecordPosition, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, BLUEPRINT_SUBMITTED, FOLDED_RUNS, SEED_METRICS
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import (
    DecisionOutcome,
    LoadableKernel,
    OutcomeStatus,
    PolicySpec,
    RunConfig,
    SeedReport,
    SeedState,
    SeedStatus,
)
from esper.workers.local import ProcessRecord, is_healthy, process, read_state, spawn_worker
from tests.system.conftest import Running
from tests.system.training import Training
from tests.waiting import wait_until

REPORTS = 2_000
RUNS = 8
KILLS = 6

pytestmark = pytest.mark.timeout(600)


def test_a_run_completes_when_both_workers_are_killed_in_the_middle(running: Running) -> None:
    bus = Bus.connect(running.settings.kafka_bootstrap_servers, source="/esper/test")
    training = Training(running, seed=5)
    growth = training.growth
    with growth:
        # New names, so that kernels are still being compiled when the worker dies.
        for blueprint in shipped():
            renamed = f"{blueprint.blueprint_id}-{secrets.token_hex(3)}"
            bus.publish(BLUEPRINT_SUBMITTED, blueprint.model_copy(update={"blueprint_id": renamed}))
        running.stack.kill("compile")
        running.stack.restart("compile")
        training.until_planted()
        running.stack.kill("bandit")
        for _ in range(200):
            training.step()
        running.stack.restart("bandit")
        before = len(growth.run_history.decisions)
        training.train_until(
            lambda: len(growth.run_history.decisions) > before, "a decision after the restart"
        )
    bus.close()

    assert growth.run_history.sealed
    verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, growth.run_id))
    assert verdict.finding is None
    ids = [decision.decision_id for decision in growth.run_history.decisions]
    assert len(ids) == len(set(ids)), "a decision was applied twice"


@pytest.mark.heavy
def test_no_report_is_lost_or_folded_twice_while_a_bandit_joins_and_is_killed_six_times(
    running: Running,
) -> None:
    servers = running.settings.kafka_bootstrap_servers
    bus = Bus.connect(servers, source="/esper/test")
    runs = [f"storm-{secrets.token_hex(3)}-{number}" for number in range(RUNS)]
    sent: list[Future[RecordPosition]] = []
    unsent = iter([report for batch in zip(*map(_reports, runs), strict=True) for report in batch])
    for _ in range(KILLS):
        _publish(bus, unsent, REPORTS // (2 * KILLS), sent)
        second = _join(running)
        _publish(bus, unsent, REPORTS // (2 * KILLS), sent)
        process.kill(second)
    _publish(bus, unsent, REPORTS, sent)
    for future in sent:
        future.result(timeout=60)
    bus.close()
    assert len(sent) == REPORTS

    states, decisions = _fold_without_kills(running, runs)
    wait_until(lambda: _states(running, runs) == states, "every report to be folded", 240)
    for run_id in runs:
        found = _decisions(running, run_id)
        # A kill between a send and its commit may repeat a decision, never change or drop one.
        assert list(dict.fromkeys(found)) == decisions[run_id]
        assert (
            audit(fetch_history(running.settings.kafka_bootstrap_servers, run_id)).finding is None
        )


def _publish(
    bus: Bus, unsent: Iterator[SeedReport], count: int, sent: list[Future[RecordPosition]]
) -> None:
    for report in islice(unsent, count):
        sent.append(bus.publish(SEED_METRICS, report))
        time.sleep(0.002)


def _join(running: Running) -> ProcessRecord:
    """Start a second bandit worker; return when it has its partitions."""
    home = running.settings.home / "second"
    home.mkdir(exist_ok=True)
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    second = spawn_worker("bandit", home, state, die_with_parent=process.CAN_DIE_WITH_PARENT)
    wait_until(lambda: is_healthy(second), "the second worker to join")
    return second


def _reports(run_id: str) -> list[SeedReport]:
    """Return the reports of one run; they do not depend on its decisions."""
    kernels = [
        LoadableKernel(
            kernel_id=sha256_of(f"{site}/{name}".encode()),
            site=site,
            blueprint_id=name,
            category=name,
            params=100,
        )
        for site in ("conv", "fc")
        for name in ("a", "b", "c")
    ]
    run_config = RunConfig(
        seed=7,
        slots={"conv": 4, "fc": 4},
        policy=PolicySpec(),
        host_params=1_000,
        report_interval_steps=10,
    )
    return [
        SeedReport(
            run_id=run_id,
            seq=seq,
            step=10 * seq,
            train_loss=1.0 / (1 + seq),
            probe_loss=1.0,
            run_config=run_config if seq == 0 else None,
            kernels=tuple(kernels) if seq == 1 else (),
            seeds=_seeds(kernels, seq),
            outcomes=_outcomes(run_id, seq),
        )
        for seq in range(REPORTS // RUNS)
    ]


def _seeds(kernels: list[LoadableKernel], seq: int) -> tuple[SeedStatus, ...]:
    """Return one seed on trial; another every ten reports, with alternating contributions."""
    if seq < 2:
        return ()
    kernel = kernels[(seq // 10) % len(kernels)]
    return (
        SeedStatus(
            site=kernel.site,
            slot=0,
            state=SeedState.ACTIVE,
            kernel_id=kernel.kernel_id,
            blueprint_id=kernel.blueprint_id,
            alpha=1.0,
            contribution=0.05 * (-1) ** (seq // 10),
        ),
    )


def _outcomes(run_id: str, seq: int) -> tuple[DecisionOutcome, ...]:
    """Return outcomes that apply every decision of the previous report."""
    return tuple(
        DecisionOutcome(
            decision_id=sha256_of(f"{run_id}/{seq - 1}/{index}".encode()),
            status=OutcomeStatus.APPLIED,
            step=10 * seq,
        )
        for index in range(2 if seq > 0 else 0)
    )


def _fold_without_kills(
    running: Running, runs: list[str]
) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
    """Fold the records of the topic in this process; return states and decisions by run."""
    states: dict[str, bytes] = {}
    decided: dict[str, list[bytes]] = {}
    for run_id in runs:
        state: FoldState | None = None
        decided[run_id] = []
        for record in _records(running, SEED_METRICS.name, run_id):
            report = decode(SeedReport, record.value)
            state, decisions, _ = fold(state, report, cause_of(record, report))
            decided[run_id] += [encode(decision) for decision in decisions]
        assert state is not None
        assert state.last_seq == REPORTS // RUNS - 1
        assert decided[run_id], "the reports lead to no decision, so this test shows nothing"
        states[run_id] = state.to_bytes()
    return states, decided


def _states(running: Running, runs: list[str]) -> dict[str, bytes]:
    """Return the last states of the runs in the worker's changelog."""
    return {
        run_id: _records(running, FOLDED_RUNS.changelog, run_id)[-1].value or b""
        for run_id in runs
        if _records(running, FOLDED_RUNS.changelog, run_id)
    }


def _decisions(running: Running, run_id: str) -> list[bytes]:
    return [record.value or b"" for record in _records(running, ADAPTATION_DECISION.name, run_id)]


def _records(running: Running, topic: str, run_id: str) -> list[Record]:
    return read_topic(running.settings.kafka_bootstrap_servers, topic, key=run_id.encode())
