"""Lockstep on a real broker: training waits for answers and kernels, and names missing ones.

The test is bandit and compile worker; `tests/system/test_lockstep.py` has the real ones.
"""

import time
from collections.abc import Callable, Iterable

import pytest
import torch
from torch.nn import functional as F
from torch.optim import Adam

import esper
from esper.blueprint import Submissions, requests_for, shipped_named
from esper.kernel import load_kernel
from esper.settings import Settings
from esper.topics.bus import Record, read_topic
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    SEED_METRICS,
    TRAINING_RUN,
)
from esper.topics.codec import decode
from esper.topics.models import (
    AdaptationDecision,
    CompileStatus,
    KernelCompiled,
    Plant,
    RunStatus,
    SeedReport,
    SeedState,
    TrainingRun,
)
from esper.training import LockstepBroken, LockstepTimeouts
from esper.workers.local import KafkaService
from tests.seed.hosts import Host, host, images, labels, sites_of
from tests.seed.kernels import announced, built
from tests.training.fake_workers import WAIT_S, Outside
from tests.training.grow_fixture import decision, planting
from tests.training.test_growth import (
    REPORT_EVERY,
    Run,
    link_processes,
    no_threads_left,
    warnings_in,
)

__all__ = ["no_threads_left"]

SHORT = LockstepTimeouts(kernels_s=3.0, answer_s=1.5)
FOREVER_S = 3600.0
"""A run that waited this long would end its test by the limit of all tests."""

Answer = Callable[[SeedReport], Iterable[AdaptationDecision]]


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """Return a broker of this module, without blueprints and kernels of other modules."""
    return own_kafka


def the_end(report: SeedReport) -> AdaptationDecision:
    """Return the decision that ends the answer to a report, or seals the run."""
    return decision(run_id=report.run_id, strategy=None)


def answer_with(outside: Outside, answer: Answer) -> None:
    """Answer the reports of every run, as the bandit worker does."""

    def on_frame(record: Record) -> None:
        for plan in answer(decode(SeedReport, record.value)):
            outside.decide(plan, record)

    outside.bus.consume(SEED_METRICS.name, on_frame)


def compile_only(outside: Outside, *blueprint_ids: str, silent_on: tuple[str, ...] = ()) -> None:
    """Announce kernels of these blueprints and reject others, as the compile worker does."""

    def on_frame(record: Record) -> None:
        run = decode(TrainingRun, record.value)
        if run.status is RunStatus.CLOSED:
            return
        for request in requests_for(standing, run):
            name = request.blueprint.blueprint_id
            if name in silent_on:
                continue
            if name in blueprint_ids:
                ready = announced(outside.store, name, request.site_signature)
                outside.bus.publish(KERNEL_READY, ready)
                continue
            rejected = KernelCompiled(
                kernel_id=request.kernel_id, blueprint_id=name, status=CompileStatus.REJECTED
            )
            outside.bus.publish(KERNEL_COMPILED, rejected)

    for name in blueprint_ids:
        outside.publish(BLUEPRINT_SUBMITTED, shipped_named(name))
    standing = blueprints_on_the_topic(outside)
    outside.bus.consume(TRAINING_RUN.name, on_frame)


def blueprints_on_the_topic(outside: Outside) -> Submissions:
    standing = Submissions()
    for record in read_topic(outside.settings.kafka_bootstrap_servers, BLUEPRINT_SUBMITTED.name):
        standing.read(record.key, record.value, record.headers)
    return standing


def test_a_run_without_answers_does_not_start_and_gives_a_remedy(
    settings: Settings, outside: Outside
) -> None:
    compile_only(outside)
    with pytest.raises(
        LockstepBroken,
        match=r"^lockstep run test-\S+ is broken: waited 1.5 s for the answer to report 0; "
        "are bandit workers running, and of this version\\?$",
    ):
        Run(settings, lockstep=SHORT)


def test_a_run_whose_answers_stop_fails_at_the_next_report_and_closes(
    settings: Settings, outside: Outside
) -> None:
    compile_only(outside)
    answer_with(outside, lambda report: [the_end(report)] if report.seq < 2 else [])
    run = Run(settings, seal_timeout_s=FOREVER_S, lockstep=SHORT)
    for _ in range(2 * REPORT_EVERY - 1):
        run.train()
    with pytest.raises(LockstepBroken, match="the answer to report 2"):
        run.train()
    for _ in range(REPORT_EVERY - 1):
        run.train()
    with pytest.raises(LockstepBroken, match="the answer to report 2"):
        run.train()
    run.growth.close()
    reports = outside.reports(run.growth.run_id)
    assert [(report.seq, report.closing) for report in reports] == [
        (0, False),
        (1, False),
        (2, False),
        (3, True),
    ]
    assert outside.status(run.growth.run_id) is RunStatus.CLOSED


def test_reports_are_due_at_every_multiple_even_if_answers_are_late(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    compile_only(outside)

    def late(report: SeedReport) -> list[AdaptationDecision]:
        time.sleep(2.5 if report.seq == 2 else 0.05)
        return [the_end(report)]

    answer_with(outside, late)
    run = Run(settings, seal_timeout_s=WAIT_S, lockstep=True)
    with run.growth:
        for _ in range(5 * REPORT_EVERY):
            run.train()
    steps = [report.step for report in outside.reports(run.growth.run_id)]
    assert steps == [0, 5, 10, 15, 20, 25, 25]
    assert run.growth.run_history.sealed
    lines = [line for line in warnings_in(caplog) if line.startswith("training")]
    assert lines == ["training waits for the answer to report 2", "training continues"]


def test_kernels_of_published_blueprints_are_in_the_first_report_only(
    settings: Settings, outside: Outside
) -> None:
    compile_only(outside, "low-rank-skip", "gated-conv")
    answer_with(outside, lambda report: [the_end(report)])
    run = Run(settings, seal_timeout_s=WAIT_S, lockstep=True)
    with run.growth as growth:
        later = announced(outside.store, "linear-bottleneck", growth.sites["fc1"].signature)
        outside.publish(KERNEL_READY, later)
        time.sleep(0.5)
        for _ in range(2 * REPORT_EVERY):
            run.train()
    first, *others = outside.reports(growth.run_id)
    assert [(kernel.site, kernel.blueprint_id) for kernel in first.kernels] == [
        ("conv", "gated-conv"),
        ("fc1", "low-rank-skip"),
    ]
    assert [report.kernels for report in others] == [()] * 3


def test_a_missing_kernel_is_named(settings: Settings, outside: Outside) -> None:
    never = shipped_named("low-rank-skip").model_copy(update={"blueprint_id": "never-compiled"})
    outside.publish(BLUEPRINT_SUBMITTED, never)
    compile_only(outside, silent_on=("never-compiled",))
    with pytest.raises(
        LockstepBroken,
        match=r"waited 3 s for 1 of \d+ kernels \(never-compiled at vector:8\); "
        "are compile workers running, and of this version",
    ):
        Run(settings, lockstep=SHORT)


def test_a_run_without_kernels_starts_with_a_warning(
    settings: Settings, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    compile_only(outside)
    answer_with(outside, lambda report: [the_end(report)])
    # No other test here has a layer of this width, whose kernels could stand there already.
    model = Host(width=9)
    growth = esper.grow(
        model,
        Adam(model.parameters()),
        sites=["fc1"],
        probe=(images(20), labels(20)),
        loss_fn=F.cross_entropy,
        config=esper.GrowConfig(settings=settings, lockstep=True),
    )
    growth.close()
    (line,) = warnings_in(caplog)
    assert line.startswith(f"lockstep run {growth.run_id} begins without kernels: no")


def test_the_answer_to_a_report_is_applied_in_the_next_step(
    settings: Settings, outside: Outside
) -> None:
    compile_only(outside, "low-rank-skip")
    plant = planting(sites_of(host())["fc1"], 0, "low-rank-skip")

    def plant_at_once(report: SeedReport) -> list[AdaptationDecision]:
        if report.seq != 1:
            return [the_end(report)]
        return [decision(plant, run_id=report.run_id), the_end(report)]

    answer_with(outside, plant_at_once)
    run = Run(settings, seal_timeout_s=WAIT_S, lockstep=True)
    slot = run.growth.sites["fc1"].slots[0]
    random_state = torch.get_rng_state()
    with run.growth:
        states = []
        for _ in range(REPORT_EVERY + 1):
            run.train()
            states.append(slot.state)
    assert states == [SeedState.DORMANT] * 4 + [SeedState.LOADING, SeedState.ACTIVE]
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_kernel_that_is_no_longer_available_is_refused_and_the_run_continues(
    settings: Settings, outside: Outside
) -> None:
    compile_only(outside)
    unknown = Plant(
        site="fc1",
        slot=0,
        kernel_id="0" * 64,
        blueprint_id="unknown",
        alpha=1.0,
        ramp_steps=0,
    )

    def plant_at_once(report: SeedReport) -> list[AdaptationDecision]:
        plan = decision(unknown, run_id=report.run_id)
        return [*([plan] if report.seq == 0 else []), the_end(report)]

    answer_with(outside, plant_at_once)
    run = Run(settings, seal_timeout_s=WAIT_S, lockstep=True)
    with run.growth:
        for _ in range(REPORT_EVERY):
            run.train()
    (outcome,) = outside.reports(run.growth.run_id)[1].outcomes
    assert (outcome.step, outcome.status) == (1, "refused")


def test_the_death_of_the_link_process_fails_the_run(settings: Settings, outside: Outside) -> None:
    compile_only(outside)
    answer_with(outside, lambda report: [the_end(report)])
    run = Run(settings, lockstep=True)
    (link,) = link_processes()
    link.kill()
    link.wait(WAIT_S)
    with pytest.raises(LockstepBroken, match="the link process has ended; start the run again"):
        for _ in range(REPORT_EVERY):
            run.train()
    run.growth.close()


@pytest.mark.parametrize("name", ["low-rank-skip", "gated-linear-unit"])
def test_building_a_kernel_draws_no_random_numbers(name: str) -> None:
    """Kernels are built on another thread; its draws would interleave with those of training."""
    made = built(name, sites_of(host())["fc1"].signature)
    before = torch.get_rng_state()
    load_kernel(made.artifact, made.sha256)
    assert torch.equal(torch.get_rng_state(), before)
