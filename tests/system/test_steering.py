"""Steer a real run from the command line; the audit reproduces every decision."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from esper.audit import audit, fetch_history
from esper.bandit import TRIALS
from esper.blueprint import shipped_named
from esper.seed import Slot
from esper.topics.bus import Bus, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, RUN_CONTROL, SEED_METRICS
from esper.topics.codec import decode
from esper.topics.models import (
    AdaptationDecision,
    OutcomeStatus,
    RequestKind,
    SeedReport,
    SeedState,
)
from esper.workers.cli import app, find_open_run, main, new_request, publish_blueprints
from tests.seed.conftest import one_thread
from tests.system.conftest import Running
from tests.system.training import Training
from tests.waiting import wait_until

__all__ = ["one_thread"]

LONG_TRIALS = TRIALS.model_copy(
    update={
        "trial_reports": 1000,
        "limits": TRIALS.limits.model_copy(update={"max_on_trial": 1}),
    }
)
S = SeedState

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", autouse=True)
def published(running: Running) -> None:
    publish_blueprints(running.settings, [shipped_named("low-rank-skip")])


@pytest.fixture(autouse=True)
def reached(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the command line at the broker of these tests."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", running.settings.kafka_bootstrap_servers)


@contextmanager
def trained(running: Running, **arguments: Any) -> Iterator[Training]:
    """Train a run on a second thread until the block ends; it is then closed and sealed."""
    arguments = {"report_every": 5, "selection": LONG_TRIALS, "memory": False} | arguments
    training = Training(running, **arguments)
    stop = threading.Event()
    failed: list[BaseException] = []

    def train() -> None:
        try:
            with training.growth:
                while not stop.is_set():
                    training.step()
                    time.sleep(0.001)
        except BaseException as error:  # noqa: BLE001 - asserted on the main thread
            failed.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        yield training
    finally:
        stop.set()
        thread.join(180)
    assert not failed
    assert training.growth.run_history.sealed


def planted(training: Training, state: SeedState = S.ACTIVE) -> Slot:
    """Wait for a seed in a state; return its slot."""

    def found() -> Slot | None:
        slots = [slot for site in training.growth.sites.values() for slot in site.slots]
        return next((slot for slot in slots if slot.state is state), None)

    slot: Slot = wait_until(found, f"a seed that is {state}")
    return slot


def run_cli(*words: str, code: int = 0) -> str:
    """Run `esper` with these words, check its exit code, and return its output."""
    result = CliRunner().invoke(app, [*words, "--timeout", "60"])
    assert result.exit_code == code, result.output
    return result.output


def reports_of(running: Running, run_id: str) -> list[SeedReport]:
    servers = running.settings.kafka_bootstrap_servers
    records = read_topic(servers, SEED_METRICS.name, key=run_id.encode())
    return [decode(SeedReport, record.value) for record in records]


def decisions_of(running: Running, run_id: str) -> list[AdaptationDecision]:
    servers = running.settings.kafka_bootstrap_servers
    records = read_topic(servers, ADAPTATION_DECISION.name, key=run_id.encode())
    return [decode(AdaptationDecision, record.value) for record in records]


def assert_audited(running: Running, run_id: str) -> None:
    verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, run_id))
    assert verdict.identical
    assert verdict.closed


def test_a_seed_is_culled_on_request_and_the_run_is_audited(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        slot_name = f"{slot.site}/{slot.index}"
        output = run_cli("seed", "cull", run_id, slot_name)
        assert output.startswith(f"{run_id}: cull {slot_name}: applied at step ")
        assert slot.state in (S.CULLED, S.DORMANT)
    (requested,) = [entry for entry in decisions_of(running, run_id) if entry.request_id]
    assert requested.reason == f"asked for by hand: cull {slot_name}"
    assert requested.strategy is None
    assert_audited(running, run_id)


def test_a_seed_is_fossilized_on_request(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        facts = json.loads(run_cli("seed", "keep", run_id, slot.site, "--json"))
        assert (facts["answer"], facts["kind"], facts["site"]) == ("done", "keep", slot.site)
        assert slot.state is S.FOSSILIZED
        assert facts["step"] == slot.since_step
    assert_audited(running, run_id)


def test_a_paused_run_decides_nothing_until_it_is_resumed(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        assert "pause: paused at step" in run_cli("run", "pause", run_id)
        assert training.growth.paused
        run_cli("seed", "cull", run_id, f"{slot.site}/{slot.index}")
        # The slot and the only trial are free, and still nothing is planted.
        seen = len(reports_of(running, run_id))
        wait_until(lambda: len(reports_of(running, run_id)) > seen + 20, "20 more reports")
        decided = decisions_of(running, run_id)
        assert "resume: resumed at step" in run_cli("run", "resume", run_id)
        wait_until(lambda: len(decisions_of(running, run_id)) > len(decided) + 1, "a decision")
    while_paused = {report.seq for report in reports_of(running, run_id) if report.paused}
    own = [entry for entry in decided if entry.seq in while_paused and entry.request_id is None]
    assert [decision.reason for decision in own] == ["no action: paused by the trainer"]
    assert_audited(running, run_id)


def test_a_repeated_request_is_applied_once(running: Running, bus: Bus) -> None:
    with trained(running) as training:
        run_id = training.growth.run_id
        run = find_open_run(running.settings.kafka_bootstrap_servers, run_id)
        request = new_request(run, RequestKind.PAUSE)
        for _ in range(2):
            bus.publish(RUN_CONTROL, request).result(60)
        wait_until(lambda: training.growth.paused, "the pause")
        training.growth.resume()
        bus.publish(RUN_CONTROL, request).result(60)
        bus.send(RUN_CONTROL.name, run_id.encode(), b"no request").result(60)
        run_cli("seed", "cull", run_id, "conv2/7", code=1)
        assert not training.growth.paused
    requests = [entry for report in reports_of(running, run_id) for entry in report.requests]
    assert [request.kind for request in requests] == [RequestKind.PAUSE, RequestKind.CULL]
    assert_audited(running, run_id)


def test_an_impossible_request_is_refused_in_one_line(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["esper", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    with trained(running) as training:
        run_id = training.growth.run_id
        output = run_cli("seed", "cull", run_id, "conv2/7", code=1)
        assert output == f"{run_id}: cull conv2/7: refused because nothing is planted at conv2/7\n"
        assert "has no site 'nowhere'; its sites: " in refused("seed", "keep", run_id, "nowhere/0")
        line = refused("run", "pause", "no-such-run")
        assert line.startswith("esper: no run 'no-such-run'; open: ")
        assert run_id in line
    line = refused("run", "pause", run_id)
    assert line == f"esper: run {run_id} is closed; name an open run"
    assert CliRunner().invoke(app, ["seed", "cull", run_id, "conv2/x"]).exit_code == 2


def test_a_request_to_a_run_that_takes_no_steps_times_out(running: Running) -> None:
    training = Training(running, report_every=5)
    with training.growth as growth:
        result = CliRunner().invoke(app, ["run", "pause", growth.run_id, "--timeout", "1"])
    assert result.exit_code == 2
    assert "not read by a trainer within 1 s" in result.output


def test_a_resumed_run_applies_requests_sent_while_it_was_down_and_repeats_none(
    running: Running, bus: Bus
) -> None:
    servers = running.settings.kafka_bootstrap_servers
    first = Training(running, report_every=5)
    with pytest.raises(RuntimeError, match="cut off"), first.growth as growth:
        run_id, run = growth.run_id, find_open_run(servers, growth.run_id)
        bus.publish(RUN_CONTROL, new_request(run, RequestKind.PAUSE)).result(60)
        first.train_until(lambda: growth.paused, "the pause")
        for _ in range(10):
            first.step()
        state = growth.state_dict()
        raise RuntimeError("cut off")
    bus.publish(RUN_CONTROL, new_request(run, RequestKind.CULL, "conv2")).result(60)
    second = Training(running, report_every=5, state=state)
    with second.growth as growth:
        assert growth.paused
        wait_until(lambda: _requests(running, run_id, second.step)[-1:] == ["cull"], "the request")
    assert _requests(running, run_id) == ["pause", "cull"]
    assert_audited(running, run_id)


def _requests(running: Running, run_id: str, step: Callable[[], None] = lambda: None) -> list[str]:
    step()
    return [
        request.kind.value for report in reports_of(running, run_id) for request in report.requests
    ]


def test_a_dry_run_gets_decisions_and_changes_nothing(running: Running) -> None:
    with trained(running, dry_run=True) as training:
        run_id = training.growth.run_id
        outcomes = training.growth.run_history.outcomes
        wait_until(lambda: len(outcomes) > 2, "three decisions")
        run_cli("seed", "cull", run_id, "conv2", code=1)
    assert {outcome.status for outcome in outcomes.values()} == {OutcomeStatus.WITHHELD}
    assert not any(list(site.seeds()) for site in training.growth.sites.values())
    held = sum(len(group["params"]) for group in training.optimizer.param_groups)
    assert held == len(list(training.model.parameters()))
    assert all(torch.isfinite(parameter).all() for parameter in training.model.parameters())
    assert not any(report.seeds for report in reports_of(running, run_id))
    assert_audited(running, run_id)
