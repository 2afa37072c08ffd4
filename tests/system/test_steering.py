"""A person steers a real run from the command line, and the audit proves what came of it."""

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
from esper.bandit import DEFAULT_SELECTION
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

LONG_TRIALS = DEFAULT_SELECTION.model_copy(
    update={
        "trial_reports": 1000,
        "limits": DEFAULT_SELECTION.limits.model_copy(update={"max_on_trial": 1}),
    }
)
S = SeedState


@pytest.fixture(scope="module", autouse=True)
def published(running: Running) -> None:
    publish_blueprints(running.settings, [shipped_named("low-rank-skip")])


@pytest.fixture(autouse=True)
def reached(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line speaks to the broker of these tests."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", running.settings.kafka_bootstrap_servers)


@contextmanager
def trained(running: Running, **arguments: Any) -> Iterator[Training]:
    """A run that trains on a thread of its own until the block ends, closed and sealed then."""
    arguments = {"report_every": 5, "selection": LONG_TRIALS, "memory": False} | arguments
    training = Training(running, **arguments)
    over = threading.Event()
    failed: list[BaseException] = []

    def train() -> None:
        try:
            with training.growth:
                while not over.is_set():
                    training.step()
                    time.sleep(0.001)
        except BaseException as error:  # noqa: BLE001 - told to the thread that asserts
            failed.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        yield training
    finally:
        over.set()
        thread.join(60)
    assert not failed
    assert training.growth.run_history.sealed


def planted(training: Training, state: SeedState = S.ACTIVE) -> Slot:
    """Wait for a seed of that state."""

    def found() -> Slot | None:
        slots = [slot for site in training.growth.sites.values() for slot in site.slots]
        return next((slot for slot in slots if slot.state is state), None)

    slot: Slot = wait_until(found, f"a seed that is {state}")
    return slot


def said(*words: str, code: int = 0) -> str:
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


def proven(running: Running, run_id: str) -> None:
    verdict = audit(fetch_history(running.settings.kafka_bootstrap_servers, run_id))
    assert verdict.identical
    assert verdict.closed


def test_a_seed_is_culled_by_hand_and_the_audit_proves_it(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        place = f"{slot.site}/{slot.index}"
        output = said("seed", "cull", run_id, place)
        assert output.startswith(f"{run_id}: cull {place}: applied at step ")
        assert slot.state in (S.CULLED, S.DORMANT)
    (by_hand,) = [entry for entry in decisions_of(running, run_id) if entry.request_id]
    assert by_hand.reason == f"asked for by hand: cull {place}"
    assert by_hand.strategy is None
    proven(running, run_id)


def test_a_seed_is_kept_by_hand(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        facts = json.loads(said("seed", "keep", run_id, slot.site, "--json"))
        assert (facts["answer"], facts["kind"], facts["site"]) == ("done", "keep", slot.site)
        assert slot.state is S.FOSSILIZED
        assert facts["step"] == slot.since_step
    proven(running, run_id)


def test_a_paused_run_decides_nothing_until_it_is_resumed(running: Running) -> None:
    with trained(running) as training:
        run_id, slot = training.growth.run_id, planted(training)
        assert "pause: paused at step" in said("run", "pause", run_id)
        assert training.growth.paused
        said("seed", "cull", run_id, f"{slot.site}/{slot.index}")
        # Its slot and its place on trial are free, and still nothing is planted.
        seen = len(reports_of(running, run_id))
        wait_until(lambda: len(reports_of(running, run_id)) > seen + 20, "20 more reports")
        decided = decisions_of(running, run_id)
        assert "resume: resumed at step" in said("run", "resume", run_id)
        wait_until(lambda: len(decisions_of(running, run_id)) > len(decided) + 1, "a decision")
    while_paused = {report.seq for report in reports_of(running, run_id) if report.paused}
    words = [entry for entry in decided if entry.seq in while_paused and entry.request_id is None]
    assert [word.reason for word in words] == ["no action: paused by the trainer"]
    proven(running, run_id)


def test_a_request_counts_once_however_often_it_is_heard(running: Running, bus: Bus) -> None:
    with trained(running) as training:
        run_id = training.growth.run_id
        run = find_open_run(running.settings.kafka_bootstrap_servers, run_id)
        request = new_request(run, RequestKind.PAUSE)
        for _ in range(2):
            bus.publish(RUN_CONTROL, request).result(10)
        wait_until(lambda: training.growth.paused, "the pause")
        training.growth.resume()
        bus.publish(RUN_CONTROL, request).result(10)
        bus.send(RUN_CONTROL.name, run_id.encode(), b"no request").result(10)
        said("seed", "cull", run_id, "conv2/7", code=1)
        assert not training.growth.paused
    told = [entry for report in reports_of(running, run_id) for entry in report.requests]
    assert [element.kind for element in told] == [RequestKind.PAUSE, RequestKind.CULL]
    proven(running, run_id)


def test_what_cannot_be_done_is_refused_in_a_line(
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
        output = said("seed", "cull", run_id, "conv2/7", code=1)
        assert output == f"{run_id}: cull conv2/7: refused because nothing is planted at conv2/7\n"
        assert "has no site 'nowhere'; its sites: " in refused("seed", "keep", run_id, "nowhere/0")
        line = refused("run", "pause", "no-such-run")
        assert line.startswith("esper: no run 'no-such-run'; open: ")
        assert run_id in line
    line = refused("run", "pause", run_id)
    assert line == f"esper: run {run_id} is closed; name an open run"
    assert CliRunner().invoke(app, ["seed", "cull", run_id, "conv2/x"]).exit_code == 2


def test_a_run_that_no_one_trains_does_not_answer(running: Running) -> None:
    training = Training(running, report_every=5)
    with training.growth as growth:
        result = CliRunner().invoke(app, ["run", "pause", growth.run_id, "--timeout", "1"])
    assert result.exit_code == 2
    assert "not read by a trainer within 1 s" in result.output


def test_a_run_that_goes_on_hears_what_was_asked_meanwhile_and_nothing_twice(
    running: Running, bus: Bus
) -> None:
    servers = running.settings.kafka_bootstrap_servers
    first = Training(running, report_every=5)
    with pytest.raises(RuntimeError, match="cut off"), first.growth as growth:
        run_id, run = growth.run_id, find_open_run(servers, growth.run_id)
        bus.publish(RUN_CONTROL, new_request(run, RequestKind.PAUSE)).result(10)
        first.train_until(lambda: growth.paused, "the pause")
        for _ in range(10):
            first.step()
        state = growth.state_dict()
        raise RuntimeError("cut off")
    bus.publish(RUN_CONTROL, new_request(run, RequestKind.CULL, "conv2")).result(10)
    second = Training(running, report_every=5, state=state)
    with second.growth as growth:
        assert growth.paused
        wait_until(lambda: _asked(running, run_id, second.step)[-1:] == ["cull"], "the request")
    assert _asked(running, run_id) == ["pause", "cull"]
    proven(running, run_id)


def _asked(running: Running, run_id: str, step: Callable[[], None] = lambda: None) -> list[str]:
    step()
    return [request.kind.value for one in reports_of(running, run_id) for request in one.requests]


def test_a_dry_run_is_decided_and_changes_nothing(running: Running) -> None:
    with trained(running, dry_run=True) as training:
        run_id = training.growth.run_id
        outcomes = training.growth.run_history.outcomes
        wait_until(lambda: len(outcomes) > 2, "three decisions")
        said("seed", "cull", run_id, "conv2", code=1)
    assert {outcome.status for outcome in outcomes.values()} == {OutcomeStatus.WITHHELD}
    assert not any(list(site.seeds()) for site in training.growth.sites.values())
    held = sum(len(group["params"]) for group in training.optimizer.param_groups)
    assert held == len(list(training.model.parameters()))
    assert all(torch.isfinite(parameter).all() for parameter in training.model.parameters())
    assert not any(report.seeds for report in reports_of(running, run_id))
    proven(running, run_id)
