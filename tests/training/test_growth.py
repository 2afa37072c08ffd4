"""Growth on a real broker: reports go out, decisions come in, and training never waits."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.nn import functional as F
from torch.optim import Adam

import esper
from esper.audit import fetch_history
from esper.kernel import sign_announcement
from esper.seed.cuda import PASSES_BEFORE_CAPTURE, SiteGraphs
from esper.settings import Settings
from esper.topics.bus import BrokerUnreachable, partition_of
from esper.topics.catalog import ADAPTATION_DECISION, KERNEL_READY, SEED_METRICS
from esper.topics.models import (
    KernelRefusal,
    OutcomeStatus,
    RunStatus,
    SeedReport,
    TrainingRun,
)
from esper.training import Growth, GrowthClosed, LockstepTimeouts
from esper.training.frame_decoder import FrameDecoder
from esper.training.grow import RunNameRefused
from esper.training.link import RunLink
from esper.training.link_config import NotConfigured, link_config_for
from esper.workers.local import KafkaService
from tests.keys import KEY
from tests.raw_batch import INVALID_UTF8, RawRecord, write_batch
from tests.seed.fake_graph import FakeGraph
from tests.seed.hosts import host, images, labels
from tests.seed.kernels import announced, plant
from tests.training.fake_workers import WAIT_S, Outside
from tests.training.grow_fixture import RUN, ZEROS, decision, planting

REPORT_EVERY = 5


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """Return a broker of this module, because one of its kernels is altered."""
    return own_kafka


class Run:
    """A growing host, trained step by step; the test acts as bandit and compile worker."""

    def __init__(
        self,
        settings: Settings,
        seal_timeout_s: float = 0.5,
        run: str = "test",
        lockstep: bool | LockstepTimeouts = False,
    ) -> None:
        self.model = host()
        self.optimizer = Adam(self.model.parameters(), lr=0.01)
        self.growth: Growth = esper.grow(
            self.model,
            self.optimizer,
            sites=["conv", "fc1"],
            probe=(images(20), labels(20)),
            loss_fn=F.cross_entropy,
            run=run,
            report_every=REPORT_EVERY,
            config=esper.GrowConfig(
                seal_timeout_s=seal_timeout_s, settings=settings, lockstep=lockstep
            ),
        )
        self._batches = torch.Generator().manual_seed(0)

    def train(self) -> None:
        loss = F.cross_entropy(self.model(images(16)), labels(16))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.growth.step(loss)

    def train_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.train()
            time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Assert after every test that no thread of Esper is left."""
    before = our_threads()
    yield
    assert our_threads() == before


def our_threads() -> set[str]:
    return {f"{one.name} {one.ident}" for one in threading.enumerate() if "esper" in one.name}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "esper"]


def test_a_decision_on_the_topic_becomes_a_seed_and_its_outcome_a_report(
    settings: Settings, outside: Outside
) -> None:
    outside.seal_closing_runs()
    run = Run(settings, seal_timeout_s=WAIT_S)
    run_id, sites = run.growth.run_id, run.growth.sites
    with run.growth:
        ready = announced(outside.store, "low-rank-skip", sites["fc1"].signature)
        outside.publish(KERNEL_READY, ready)
        run.train_until(lambda: ready.kernel_id in run.growth.run_history.kernels)
        plan = outside.decide(decision(planting(sites["fc1"], 1, "low-rank-skip"), run_id=run_id))
        run.train_until(lambda: list(sites["fc1"].seeds()))
        assert sites["fc1"].seed(1).kernel.sha256 == ready.sha256
        run.train_until(lambda: len(outside.reports(run_id)) > 8)
    reports = outside.reports(run_id)
    assert [report.seq for report in reports] == list(range(len(reports)))
    assert [report.run_config is not None for report in reports] == [True] + [False] * (
        len(reports) - 1
    )
    assert [report.closing for report in reports] == [False] * (len(reports) - 1) + [True]
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    assert [(outcome.decision_id, outcome.status) for outcome in outcomes] == [
        (plan.decision_id, OutcomeStatus.APPLIED)
    ]
    assert run.growth.run_history.sealed
    assert outside.status(run_id) is RunStatus.CLOSED


def test_a_run_without_a_bandit_worker_ends_within_its_timeout_with_a_warning(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings, seal_timeout_s=0.3)
    run.train()
    start = time.monotonic()
    run.growth.close()
    run.growth.close()
    assert time.monotonic() - start >= 0.3
    assert warnings_in(caplog) == [
        f"run {run.growth.run_id} is not sealed: no bandit worker answered"
    ]
    assert outside.reports(run.growth.run_id)[-1].closing


def test_an_error_of_the_user_passes_through_and_the_run_is_closed_unmeasured(
    settings: Settings, outside: Outside
) -> None:
    run = Run(settings)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    broken = RuntimeError("the model does not run any more")

    def fail(*_: Any) -> None:
        raise broken

    with pytest.raises(RuntimeError) as raised, run.growth:
        handle = run.model.fc2.register_forward_pre_hook(fail)
        run.train()
    handle.remove()
    assert raised.value is broken
    torch.testing.assert_close(dict(run.model.state_dict()), weights, rtol=0, atol=0)
    assert run.model.training
    last = outside.reports(run.growth.run_id)[-1]
    assert (last.closing, last.probe_loss) == (True, None)
    assert outside.status(run.growth.run_id) is RunStatus.CLOSED


def test_a_site_that_settled_is_recorded_between_two_steps(settings: Settings) -> None:
    run = Run(settings)
    with run.growth:
        site = run.growth.sites["fc1"]
        plant(site, 0, "linear-bottleneck")
        assert site.bank is not None
        site.bank.graphs = SiteGraphs(FakeGraph, devices=("cpu",))
        for _ in range(PASSES_BEFORE_CAPTURE):
            assert site.bank.capture_stats.captures == 0
            run.train()
        assert site.bank.capture_stats.captures == 1
        run.train()
        assert site.bank.capture_stats.replays == 1


def test_automatically_chosen_sites_are_logged_with_reasons(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    model = host()
    with caplog.at_level("INFO", logger="esper"):
        growth = esper.grow(
            model,
            Adam(model.parameters()),
            sites="auto",
            probe=(images(20), labels(20)),
            loss_fn=F.cross_entropy,
            config=esper.GrowConfig(seal_timeout_s=0.5, settings=settings),
        )
        growth.close()
    assert list(growth.sites) == ["conv", "fc1"]
    assert [line for line in warnings_in(caplog) if "site: " in line] == [
        "site: conv runs once in each pass",
        "site: fc1 runs once in each pass",
        "no site: fc2 gives the output of the model",
    ]


def test_a_replaced_optimizer_is_reported_until_it_is_set(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    with run.growth:
        given, run.optimizer = run.optimizer, Adam(run.model.parameters())
        for _ in range(REPORT_EVERY):
            run.train()
        assert any("took no step since the last report" in line for line in warnings_in(caplog))
        run.growth.use(run.optimizer)
        caplog.clear()
        for _ in range(2 * REPORT_EVERY):
            run.train()
        assert not any("took no step" in line for line in warnings_in(caplog))
        assert not given._optimizer_step_post_hooks
    assert not run.optimizer._optimizer_step_post_hooks


def test_a_step_after_the_end_is_refused(settings: Settings) -> None:
    run = Run(settings)
    run.growth.close()
    with pytest.raises(GrowthClosed, match="has ended; call step only inside its `with`"):
        run.train()


def test_an_unreadable_record_before_a_decision_is_passed_over(
    settings: Settings, outside: Outside
) -> None:
    """Its bytes cannot be decoded by the Kafka client; the audit passes it over too."""
    run = Run(settings)
    key = run.growth.run_id.encode()
    partition = partition_of(key, ADAPTATION_DECISION.partitions)
    servers = settings.kafka_bootstrap_servers
    bad = RawRecord(key, b"{}", [(INVALID_UTF8, b"")])
    write_batch(servers, ADAPTATION_DECISION.name, [bad], partition)
    write_batch(servers, SEED_METRICS.name, [bad], partition_of(key, SEED_METRICS.partitions))
    own = outside.decide(decision(run_id=run.growth.run_id))
    run.train_until(lambda: run.growth.run_history.decisions)
    run.growth.close()
    assert run.growth.run_history.decisions == [own]
    history = fetch_history(servers, run.growth.run_id)
    assert len(history.reports) == len(outside.reports(run.growth.run_id))


def test_a_report_that_cannot_be_sent_ends_growth_and_not_training(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run = TrainingRun(run_id=RUN, status=RunStatus.OPEN, sites={})
    link = RunLink(link_config_for(settings, run), FrameDecoder({}))
    link.open(lambda decoder: None, lambda decision, timestamp_ms: None)
    refusals = (KernelRefusal(kernel_id=ZEROS, reason="x" * 500),) * 10_000
    link.report(SeedReport(run_id=RUN, seq=0, step=0, refusals=refusals))
    assert not link.wait_to_report(time.monotonic() + WAIT_S)
    assert not link.can_report()
    link.close()
    (line,) = warnings_in(caplog)
    assert line.startswith("growth ends: a report cannot be sent (seed-metrics: a record of")


def test_only_kernels_for_sites_of_the_run_are_fetched_and_offered(
    settings: Settings, outside: Outside
) -> None:
    run = Run(settings)
    with run.growth:
        site = run.growth.sites["fc1"]
        elsewhere = site.signature.model_copy(update={"x": (3,)})
        stray = announced(outside.store, "linear-bottleneck", elsewhere)
        outside.publish(KERNEL_READY, stray)
        fitting = announced(outside.store, "linear-bottleneck", site.signature)
        outside.publish(KERNEL_READY, fitting)
        offered = run.growth.run_history.kernels
        run.train_until(lambda: fitting.kernel_id in offered)
        assert stray.kernel_id not in offered


def test_a_kernel_altered_in_the_store_is_refused_in_the_next_report(
    settings: Settings, outside: Outside
) -> None:
    run = Run(settings)
    with run.growth:
        ready = announced(outside.store, "gated-linear-unit", run.growth.sites["fc1"].signature)
        other = ready.model_copy(update={"sha256": ZEROS})
        outside.publish(KERNEL_READY, sign_announcement(KEY, other))
        run.train_until(lambda: any(one.refusals for one in outside.reports(run.growth.run_id)))
    (refusal,) = (one for report in outside.reports(run.growth.run_id) for one in report.refusals)
    assert "the bytes changed after validation" in refusal.reason


def test_training_continues_after_the_link_process_dies_with_one_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    (link,) = link_processes()
    link.kill()
    run.train_until(lambda: any("growth ends" in line for line in warnings_in(caplog)))
    assert run.growth.status[:2] == (esper.GrowthState.FAILED, "the link process has ended")
    for _ in range(2 * REPORT_EVERY):
        run.train()
    run.growth.close()
    assert [line for line in warnings_in(caplog) if not line.startswith("kernel")] == [
        "growth ends: the link process has ended; training continues",
        f"run {run.growth.run_id} ends without its last report",
    ]


def link_processes(trainer: int | None = None) -> list[psutil.Process]:
    """Return the running link processes of a trainer process; default: this process."""
    return [
        child
        for child in psutil.Process(trainer).children()
        if "esper.link.sidecar" in child.cmdline()
    ]


UNGUARDED = """
import sys, time, torch, esper
model = torch.nn.Sequential(torch.nn.Linear(4, 4))
growth = esper.grow(
    model, torch.optim.SGD(model.parameters(), lr=0.1), sites=["0"],
    probe=(torch.zeros(2, 4), torch.zeros(2, 4)), loss_fn=torch.nn.functional.mse_loss,
    config=esper.GrowConfig(settings=esper.Settings.model_validate_json(sys.argv[1])),
)
print("growing", flush=True)
time.sleep(60)
"""


def test_a_run_whose_process_group_gets_sigterm_still_reports_and_closes(
    settings: Settings, outside: Outside
) -> None:
    """As from systemd or `timeout`: the trainer decides when the run ends."""
    run = Run(settings)
    (link,) = link_processes()
    link.terminate()
    run_id = run.growth.run_id
    before = len(outside.reports(run_id))
    run.train_until(lambda: len(outside.reports(run_id)) > before + 1)
    run.growth.pause()
    assert run.growth.status.state is esper.GrowthState.PAUSED
    run.growth.close()
    assert run.growth.status.state is esper.GrowthState.ENDED
    assert outside.reports(run_id)[-1].closing
    assert outside.status(run_id) is RunStatus.CLOSED


def test_a_script_without_a_guard_grows_and_its_link_ends_with_it_even_when_killed(
    settings: Settings, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(UNGUARDED)
    words = [sys.executable, str(script), settings.model_dump_json(by_alias=True)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "growing\n"
        (link,) = link_processes(trainer.pid)
        trainer.kill()
    link.wait(timeout=WAIT_S)


def test_without_a_broker_growth_is_refused_with_a_remedy(settings: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": address})
    with pytest.raises(BrokerUnreachable, match=f"{address}; start one with `esper up`"):
        Run(nowhere)


def test_a_name_that_cannot_be_part_of_an_id_is_refused(settings: Settings) -> None:
    with pytest.raises(RunNameRefused, match="My Run"):
        Run(settings, run="My Run")


def test_without_a_verification_key_growth_is_refused(settings: Settings) -> None:
    keyless = settings.model_copy(update={"trusted_key_file": None})
    with pytest.raises(NotConfigured, match=r"`esper up`.*ESPER_TRUSTED_KEY_FILE"):
        Run(keyless)


def test_training_continues_during_a_broker_outage_and_no_report_is_lost(
    kafka: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    for _ in range(2 * REPORT_EVERY):
        run.train()
    kafka.stop()
    try:
        run.train_until(lambda: any("growth pauses" in line for line in warnings_in(caplog)))
        # No step waits for the broker, or these would not end while it is away.
        for _ in range(20 * REPORT_EVERY):
            run.train()
        assert run.growth.status.state is esper.GrowthState.WAITING
    finally:
        kafka.start()
    run.train_until(lambda: any("growth resumes" in line for line in warnings_in(caplog)))
    assert run.growth.status.state is esper.GrowthState.GROWING
    for _ in range(4 * REPORT_EVERY):
        run.train()
    run.growth.close()
    outside = Outside(settings)
    reports = outside.reports(run.growth.run_id)
    outside.bus.close()
    assert [report.seq for report in reports] == list(range(len(reports)))
    assert reports[-1].closing
    lines = [line for line in warnings_in(caplog) if line.startswith("growth")]
    assert lines == [
        "growth pauses: the broker does not confirm reports; training continues",
        "growth resumes: the broker answers again",
    ]


def test_a_run_that_ends_during_a_broker_outage_names_the_missing_reports(
    kafka: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(settings)
    kafka.stop()
    try:
        for _ in range(2 * REPORT_EVERY):
            run.train()
        run.growth.close()
    finally:
        kafka.start()
    assert f"run {run.growth.run_id} ends without its last report" in warnings_in(caplog)
