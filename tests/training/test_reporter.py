"""Reports: numbered without gaps, every piece of news reported once."""

import pytest
import torch

from esper.topics.codec import decode, encode
from esper.topics.models import (
    DecisionOutcome,
    KernelRefusal,
    LoadableKernel,
    OutcomeStatus,
    PolicySpec,
    RunConfig,
    SeedReport,
    SeedState,
)
from esper.training.probe import ProbeResult
from esper.training.reporter import Reporter
from tests.training.grow_fixture import RUN, ZEROS, GrowingHost, decision, planting

OPENING = RunConfig(
    seed=1, slots={"fc1": 3}, policy=PolicySpec(), host_params=100, report_interval_steps=20
)
NOTHING = ProbeResult(loss=0.5, contributions={})


def a_reporter() -> Reporter:
    return Reporter(RUN, OPENING)


def next_report(
    reporter: Reporter,
    growing: GrowingHost | None = None,
    *,
    step: int = 0,
    measured: ProbeResult = NOTHING,
) -> SeedReport:
    report = reporter.next(
        growing.sites if growing else {}, measured, step=step, train_loss=torch.tensor(1.0)
    )
    assert decode(SeedReport, encode(report)) == report
    return report


def test_numbers_count_up_from_zero_and_only_the_first_report_opens_the_run() -> None:
    reporter = a_reporter()
    reports = [next_report(reporter, step=20 * number) for number in range(4)]
    assert [report.seq for report in reports] == [0, 1, 2, 3]
    assert [report.step for report in reports] == [0, 20, 40, 60]
    assert [report.run_config for report in reports] == [OPENING, None, None, None]
    assert {report.run_id for report in reports} == {RUN}


def test_every_piece_of_news_is_reported_once() -> None:
    reporter = a_reporter()
    kernel = LoadableKernel(
        kernel_id=ZEROS, site="fc1", blueprint_id="low-rank-skip", category="low-rank", params=3
    )
    refusal = KernelRefusal(kernel_id=ZEROS, reason="altered")
    outcome = DecisionOutcome(decision_id=ZEROS, status=OutcomeStatus.APPLIED, step=7)
    reporter.news.add(kernel)
    reporter.news.add(refusal)
    reporter.news.add(outcome)
    first, second = next_report(reporter), next_report(reporter)
    assert (first.kernels, first.refusals, first.outcomes) == ((kernel,), (refusal,), (outcome,))
    assert (second.kernels, second.refusals, second.outcomes) == ((), (), ())


def loadable(site: str, blueprint_id: str, kernel_id: str) -> LoadableKernel:
    return LoadableKernel(
        kernel_id=kernel_id, site=site, blueprint_id=blueprint_id, category="any", params=1
    )


def test_the_order_of_a_report_does_not_depend_on_the_order_of_arrival() -> None:
    kernels = [loadable(site, name, ZEROS) for site in ("conv", "fc1") for name in ("a", "b")]
    refusals = [KernelRefusal(kernel_id=digit * 64, reason="altered") for digit in "12"]
    reports = []
    for order in (1, -1):
        reporter = a_reporter()
        for kernel in kernels[::order]:
            reporter.news.add(kernel)
        for refusal in refusals[::order]:
            reporter.news.add(refusal)
        reports.append(next_report(reporter))
    assert reports[0] == reports[1]


def test_a_superseding_kernel_is_reported_after_the_superseded_one() -> None:
    """The fold keeps the last kernel; digests have no order in time."""
    reporter = a_reporter()
    older, newer = loadable("fc1", "a", "f" * 64), loadable("fc1", "a", ZEROS)
    reporter.news.add(older)
    reporter.news.add(newer)
    assert next_report(reporter).kernels == (older, newer)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_training_loss_that_is_not_finite_is_not_a_number_on_the_wire(value: float) -> None:
    report = a_reporter().next({}, NOTHING, step=1, train_loss=torch.tensor(value))
    assert report.train_loss is None
    encode(report)


def test_a_training_loss_is_read_without_its_graph() -> None:
    loss = torch.tensor(0.25, requires_grad=True) * 2
    assert a_reporter().next({}, NOTHING, step=1, train_loss=loss).train_loss == 0.5


def test_no_training_loss_is_none() -> None:
    assert a_reporter().next({}, NOTHING, step=1, train_loss=None).train_loss is None


def test_only_the_last_report_closes() -> None:
    reporter = a_reporter()
    assert not next_report(reporter).closing
    assert reporter.next({}, NOTHING, step=1, train_loss=None, closing=True).closing


def test_dormant_seeds_are_not_reported() -> None:
    assert next_report(a_reporter(), GrowingHost()).seeds == ()


def test_a_planted_seed_is_reported_with_every_field_that_decisions_need() -> None:
    growing = GrowingHost()
    kernel = growing.plant("fc1", 1, "low-rank-skip", alpha=0.5, ramp_steps=4)
    growing.train(2)
    (status,) = next_report(
        a_reporter(), growing, step=growing.step, measured=ProbeResult(0.1, {("fc1", 1): 0.02})
    ).seeds
    assert (status.site, status.slot, status.state) == ("fc1", 1, SeedState.BLENDING)
    assert (status.kernel_id, status.blueprint_id) == (kernel.kernel_id, "low-rank-skip")
    assert (status.params, status.alpha, status.age_steps) == (kernel.params, 0.375, 2)
    assert status.contribution == 0.02


def test_loading_and_culled_seeds_are_reported_without_a_kernel() -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "low-rank-skip")
    growing.cull("fc1", 0)
    growing.seed_manager.reserve(decision(planting(growing.sites["conv"], 0, "gated-conv")), 0)
    statuses = next_report(a_reporter(), growing).seeds
    assert [(status.site, status.state, status.kernel_id) for status in statuses] == [
        ("conv", SeedState.LOADING, None),
        ("fc1", SeedState.CULLED, None),
    ]
