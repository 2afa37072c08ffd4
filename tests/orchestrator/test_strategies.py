"""Strategies of an orchestrated run: which signal selects which, and what each proposes."""

import pytest

from esper.orchestrator.state import Trial
from esper.orchestrator.strategies.successive_halving import clearly_worse
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Plant,
    Reweight,
    Signal,
)
from tests.orchestrator.orchestrated import (
    FOREVER,
    SITES,
    TWO,
    Run,
    active_strategy,
    flat,
    one_at_a_time,
    operations,
    signal,
)
from tests.orchestrator.trainer import INTERVAL, Trainer, kernel

# -- DIVERSIFY ----------------------------------------------------------------------------------


def test_with_nothing_on_trial_a_tournament_starts_with_max_on_trial_candidates() -> None:
    run = Run(max_on_trial=3)
    decision = run.first
    assert decision.strategy == "diversify"
    assert len(operations(decision, Plant)) == len(decision.operations) == 3
    assert active_strategy(decision).why == "nothing is on trial"
    assert active_strategy(decision).changed
    assert signal(decision, "idle").on


def test_candidates_at_one_site_share_its_alpha_and_a_lone_one_gets_all() -> None:
    run = Run(max_on_trial=4)
    alphas: dict[str, list[float]] = {}
    for plant in operations(run.first, Plant):
        alphas.setdefault(plant.site, []).append(plant.alpha)
    assert sorted(alphas) == ["conv", "fc"]
    for of_site in alphas.values():
        assert of_site == [1 / len(of_site)] * len(of_site)


def test_candidates_of_a_tournament_have_different_categories_while_possible() -> None:
    arm_features = [
        kernel(site, f"{name}-{site}", name) for site in SITES for name in ("a", "b", "c")
    ]
    for seed in range(5):
        run = Run(arm_features=arm_features, max_on_trial=3)
        run.trainer.seed = seed
        categories = {
            operation.blueprint_id.partition("-")[0] for operation in operations(run.first, Plant)
        }
        assert categories == {"a", "b", "c"}


def test_no_plan_plants_one_kernel_twice() -> None:
    """Two sites of one signature offer the same kernel; the trainer would refuse both."""
    shared = kernel("conv", "a")
    arm_features = [shared, shared.model_copy(update={"site": "fc"})]
    run = Run(arm_features=arm_features)
    assert len(operations(run.first, Plant)) == 1


def test_no_tournament_starts_during_another_unless_the_loss_has_plateaued() -> None:
    run = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")], plateau_reports=4)
    run.trainer.report(kernel("conv", "b"))
    assert len(run.trainer.seeds) == 1
    falling = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")], trial_reports=30)
    for step in range(20):
        falling.loss = 1.0 / (1 + step)
        falling.go(*([kernel("conv", "b")] if step == 0 else []))
    assert len(falling.plans) == 1


def test_on_a_plateau_a_tournament_starts_beside_the_seeds_on_trial() -> None:
    run = Run({}, {"conv": 3, "fc": 3}, [kernel("conv", "a")], plateau_reports=4, trial_reports=100)
    run.go(kernel("fc", "b"))
    decision = run.until("diversify")
    assert [plant.blueprint_id for plant in operations(decision, Plant)] == ["b"]
    assert signal(decision, "plateau").on
    assert decision.reason == (
        "fc · DIVERSIFY: b was never tried, at alpha 1; "
        f"since report {active_strategy(decision).since_seq}: {active_strategy(decision).why}"
    )


def test_with_waits_for_plateau_nothing_is_planted_while_the_host_learns() -> None:
    run = Run(slots={"conv": 2}, plateau_reports=4, waits_for_plateau=True)
    assert run.plans == []
    for step in range(20):
        run.loss = 1.0 / (2 + step)
        assert run.go() is None
    decision = run.until("diversify")
    assert operations(decision, Plant)
    assert signal(decision, "plateau").on


def test_an_exhausted_run_does_not_diversify_and_gives_the_reason() -> None:
    run = Run({}, {"conv": 1}, [kernel("conv", "a")])
    kept = run.until("specialize")
    assert operations(kept, Fossilize)
    for _ in range(20):
        assert run.go() is None
    assert (
        run.trainer.fold_state.idle_reason == "no action: all 1 arms are ruled out by no-seed-free"
    )


# -- the tournament -----------------------------------------------------------------------------


def test_a_clear_loser_is_culled_and_rewarded_at_the_first_rung() -> None:
    """The seeds are at two sites, where dominance does not apply."""
    worth = {("conv", "a"): 0.2, ("fc", "b"): 0.02}
    arm_features = [kernel("conv", "a"), kernel("fc", "b")]
    run = Run(worth, arm_features=arm_features, rung_reports=2)
    decision = run.until("diversify")
    assert [type(operation) for operation in decision.operations] == [Cull]
    assert decision.operations[0].site == "fc"
    assert "b contributed 2.0% for 2 reports and a at conv 20.0%" in decision.reason
    arm = run.trainer.fold_state.arms.at("fc", "b")
    assert arm is not None
    assert arm.pulls == 1
    assert arm.mean > 0.5
    assert decision.seq == run.first.seq + 3


def test_half_of_a_tournament_remains_after_one_rung_and_a_quarter_after_two() -> None:
    slots = {f"s{slot_id}": 1 for slot_id in range(8)}
    arm_features = [kernel(site, "a") for site in slots]
    worth = {(f"s{slot_id}", "a"): 0.0005 * 3**slot_id for slot_id in range(8)}
    run = Run(worth, slots, arm_features, max_on_trial=8, rung_reports=2, trial_reports=20)
    left = {}
    for _ in range(12):
        run.go()
        trials = run.trainer.fold_state.trials
        left[max(len(trial.contributions) for trial in trials)] = run.planted
    assert (left[2], left[4], left[8]) == (4, 2, 1)
    assert [trial.site for trial in run.trainer.fold_state.trials] == ["s7"]


def test_a_seed_nearly_as_good_as_the_best_is_not_culled_even_if_clearly_worse() -> None:
    worth = {("conv", "a"): 0.2, ("fc", "b"): 0.11}
    run = Run(worth, arm_features=[kernel("conv", "a"), kernel("fc", "b")])
    for _ in range(5):
        assert run.go() is None


def test_no_seed_is_culled_for_a_difference_within_the_noise() -> None:
    """One seed contributes more than three times as much as the other on average."""
    run = Run(arm_features=[kernel("conv", "a"), kernel("fc", "b")])
    run.go()
    for contribution in (0.3, 0.06, 0.31, 0.04):
        run.worth = {("conv", "a"): contribution, ("fc", "b"): 0.05}
        assert run.go() is None


@pytest.mark.parametrize(
    ("one", "other", "clearly"),
    [
        ((0.1, 0.1), (0.2, 0.21), True),
        ((0.1, 0.1), (0.2, 0.3), False),
        ((0.1, 0.1, 0.1), (0.2, 0.3, 0.25), True),
        ((0.1, 0.2, 0.3), (0.2, 0.3, 0.4), True),
        ((0.1,), (0.9,), False),
        ((None, None, 0.1), (0.9, 0.9, 0.9), False),
        ((0.2, 0.21), (0.1, 0.1), False),
        ((0.5, 0.1, 0.1), (0.2, 0.21), True),
    ],
)
def test_clearly_worse_is_beyond_the_noise_of_the_same_reports(
    one: tuple[float | None, ...], other: tuple[float | None, ...], clearly: bool
) -> None:
    trials = [
        Trial(site="conv", slot=slot, kernel_id="0" * 64, contributions=contributions)
        for slot, contributions in enumerate((one, other))
    ]
    assert clearly_worse(*trials) is clearly


# -- REPLACE ------------------------------------------------------------------------------------


def test_a_harmful_seed_is_replaced_immediately_despite_the_cooldown() -> None:
    worth = flat("conv", a=-0.1)
    run = Run(worth, {"conv": 3}, [kernel("conv", "a")], cooldown_reports=50)
    run.trainer.report(kernel("conv", "b"))
    decision = run.until("replace")
    cull, plant = decision.operations
    assert isinstance(cull, Cull)
    assert isinstance(plant, Plant)
    assert (plant.blueprint_id, plant.slot, plant.alpha) == ("b", 1, 1.0)
    assert signal(decision, "harmful") == Signal(
        name="harmful", site="conv", value=-0.1, threshold=-0.02, on=True
    )
    assert decision.reason == (
        "conv · REPLACE: a contributed -10.0% for 2 reports, b was never tried; "
        f"since report {decision.seq}: conv: a raises the probe loss by 10.0%"
    )


def test_harm_needs_harm_reports_measurements() -> None:
    run = Run(flat("conv", a=-0.1), {"conv": 3}, [kernel("conv", "a")], harm_reports=4)
    decision = run.until("replace")
    assert "for 4 reports" in decision.reason


def test_contributions_during_warm_up_do_not_count() -> None:
    run = Run(flat("conv", a=-0.01), {"conv": 3}, [kernel("conv", "a")], warmup_reports=8)
    for _ in range(9):
        assert run.go() is None
    run.worth["conv", "a"] = 0.2
    kept = run.until("specialize")
    assert operations(kept, Fossilize)
    assert "a contributed 20.0% for 6 reports" in kept.reason
    # One report of ramp, then the warm-up, then the trial.
    assert kept.seq == run.first.seq + 1 + 8 + 6


def test_a_seed_that_does_harm_during_warm_up_is_culled() -> None:
    run = Run(flat("conv", a=-0.1), {"conv": 3}, [kernel("conv", "a")], warmup_reports=8)
    culled = run.until("replace")
    assert operations(culled, Cull)
    assert culled.seq == run.first.seq + 1 + 2


@pytest.mark.parametrize(("gives", "stays"), [(0.09, False), (0.11, True)])
def test_a_kept_seed_must_contribute_a_share_of_the_first_loss_too(
    gives: float, stays: bool
) -> None:
    """The loss is a fifth of the first loss, so both contribute about half of it."""
    run = Run(flat("conv", a=gives), {"conv": 3}, [kernel("conv", "a")], keep_first_share=0.1)
    run.loss = 0.2
    decision = run.until("specialize" if stays else "replace")
    assert operations(decision, Fossilize if stays else Cull)
    shown = signal(decision, "proven" if stays else "weak")
    assert shown.threshold == pytest.approx(0.1 / 0.2)
    assert shown.value == pytest.approx(gives / 0.2)
    assert f"a contributed {gives / 0.2:.1%} ({gives:.1%} of the first) for 6" in decision.reason


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_seeds_in_warm_up_are_not_compared(names: tuple[str, ...]) -> None:
    """No seed dominates its site and no seed is culled at a rung."""
    arm_features = [kernel("conv", name) for name in names[:2]] + [
        kernel("fc", n) for n in names[2:]
    ]
    worth = {("conv", "a"): 0.2, ("conv", "b"): 0.02, ("fc", "c"): 0.02}
    run = Run(worth, arm_features=arm_features, max_on_trial=3, warmup_reports=8)
    for _ in range(9 + 1):
        assert run.go() is None
    assert run.go() is not None


def test_a_seed_that_failed_its_trial_is_replaced_by_a_better_expectation() -> None:
    run = Run(flat("conv", a=0.001), {"conv": 3}, [kernel("conv", "a")])
    run.trainer.report(kernel("conv", "b"))
    decision = run.until("replace")
    assert [operation.op for operation in decision.operations] == ["cull", "plant"]
    assert decision.reason == (
        "conv · REPLACE: a contributed 0.1% for 6 reports, b was never tried"
    )
    assert signal(decision, "weak").threshold == 0.01


def test_the_reason_gives_the_expectation_and_its_spread_from_trials_at_the_site() -> None:
    worth = {("conv", "a"): 0.001, ("conv", "b"): 0.005}
    run = one_at_a_time(worth)
    reasons = []
    for step in range(120):
        run.worth["conv", "b"] = 0.005 if step % 40 < 20 else 0.008
        if (decision := run.go()) is not None:
            reasons.append(decision.reason)
    text = " | ".join(reasons)
    assert "b is expected to give 0.5%, by one trial" in text
    assert "b is expected to give 0." in text
    assert " ± 0." in text


def test_no_arm_with_a_lower_expectation_is_planted_as_replacement() -> None:
    worth = {("conv", "a"): 0.001, ("conv", "b"): 0.009}
    run = one_at_a_time(worth)
    for _ in range(80):
        decision = run.go()
        if decision is not None and decision.strategy == "replace":
            weak = run.trainer.fold_state.arms.on("conv", decision.operations[0].kernel_id)
            planted = [operation.blueprint_id for operation in operations(decision, Plant)]
            arm = run.trainer.fold_state.arms.at("conv", "a")
            assert weak is not None
            assert arm is not None
            if weak.kernel.blueprint_id == "b" and arm.pulls:
                assert planted == []


# -- SPECIALIZE ---------------------------------------------------------------------------------


def test_the_dominant_seed_of_a_site_gets_alpha_one_and_the_others_are_culled() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    decision = run.until("specialize")
    cull, reweight = decision.operations
    assert isinstance(cull, Cull)
    assert cull.kernel_id == kernel("conv", "b").kernel_id
    assert isinstance(reweight, Reweight)
    assert (reweight.kernel_id, reweight.alpha) == (kernel("conv", "a").kernel_id, 1.0)
    assert reweight.ramp_steps == INTERVAL
    assert signal(decision, "dominant").value == pytest.approx(0.2 / 0.03)


def test_a_reweighting_may_take_several_reports() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO, reweight_reports=5)
    (reweight,) = operations(run.until("specialize"), Reweight)
    assert reweight.ramp_steps == 5 * INTERVAL


def test_contributions_measured_during_a_ramp_do_not_count() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    run.until("specialize")
    (before,) = [trial for trial in run.trainer.fold_state.trials if trial.site == "conv"][:1]
    run.worth["conv", "a"] = -9.0
    run.go()
    (trial,) = run.trainer.fold_state.trials
    assert trial.contributions == (0.2, 0.2)
    assert trial.alpha == 1.0
    assert before.alpha == 0.5


def test_the_dominant_seed_is_kept_only_after_its_trial() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    raised = run.until("specialize")
    kept = run.until("specialize")
    assert operations(kept, Fossilize)
    # One report of ramp, then the remaining four of six measurements.
    assert kept.seq == raised.seq + 1 + 4
    arm = run.trainer.fold_state.arms.at("conv", "a")
    assert arm is not None
    assert arm.pulls == 1


def test_a_dominant_seed_with_alpha_one_continues_its_trial() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    run.go()
    for seed in run.trainer.seeds.values():
        seed.alpha = 1.0 if seed.blueprint_id == "a" else 0.25
    decision = run.until("specialize")
    assert [operation.op for operation in decision.operations] == ["cull"]


def test_a_lone_seed_is_raised_to_alpha_one_before_it_is_kept() -> None:
    run = Run(flat("conv", a=0.2, b=-0.5), {"conv": 3}, TWO)
    assert run.until("replace")
    raised = run.until("specialize")
    assert [operation.op for operation in raised.operations] == ["reweight"]
    kept = run.until("specialize")
    assert [operation.op for operation in kept.operations] == ["fossilize"]


# -- ENSEMBLE -----------------------------------------------------------------------------------


def test_comparable_seeds_of_a_site_are_kept_together_after_their_trials() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO)
    decision = run.until("ensemble")
    assert [operation.op for operation in decision.operations] == ["fossilize", "fossilize"]
    assert "kept together" in decision.reason
    assert signal(decision, "comparable").on
    assert decision.seq == run.first.seq + 1 + 6


def test_softmax_weights_are_proportional_and_keep_their_sum() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO, ensemble="softmax", temperature=0.02)
    with_alpha = run.until("ensemble")
    alphas = {
        operation.kernel_id: operation.alpha for operation in operations(with_alpha, Reweight)
    }
    first, second = (alphas[kernel.kernel_id] for kernel in TWO)
    assert first + second == pytest.approx(1.0)
    assert first / second == pytest.approx(2.718281828)
    kept = run.until("ensemble")
    assert [operation.op for operation in kept.operations] == ["fossilize", "fossilize"]
    assert kept.seq == with_alpha.seq + 2


def test_weights_change_once_even_if_contributions_change_later() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO, ensemble="softmax")
    run.until("ensemble")
    run.worth = dict(flat("conv", a=0.18, b=0.2))
    kept = run.until("ensemble")
    assert {operation.op for operation in kept.operations} == {"fossilize"}


def test_the_seed_that_is_not_comparable_is_culled_when_the_others_are_kept() -> None:
    three = [*TWO, kernel("conv", "c")]
    run = Run(
        flat("conv", a=0.2, b=0.12, c=0.08), {"conv": 3}, three, max_on_trial=3, limits=FOREVER
    )
    seen = [run.until("ensemble")]
    while not operations(seen[-1], Fossilize):
        seen.append(run.until("ensemble"))
    culled = [
        operation.kernel_id for decision in run.plans for operation in operations(decision, Cull)
    ]
    assert culled == [kernel("conv", "c").kernel_id]


@pytest.mark.parametrize("rung_reports", [2, 1000])
@pytest.mark.parametrize("ratio", [1.2, 1.7, 2.5, 10.0])
def test_every_pair_of_seeds_is_decided_after_the_trials(ratio: float, rung_reports: int) -> None:
    """Between the thresholds the decision is made after the trials."""
    run = Run(
        flat("conv", a=0.2, b=0.2 / ratio),
        {"conv": 3},
        TWO,
        limits=FOREVER,
        rung_reports=rung_reports,
    )
    for _ in range(25):
        run.go()
    assert run.trainer.fold_state.trials == ()
    kept = [operation for decision in run.plans for operation in operations(decision, Fossilize)]
    assert len(kept) == (2 if ratio <= 2 else 1)


# -- refused plans and changes from elsewhere ---------------------------------------------------


def next_plan(run: Run) -> AdaptationDecision:
    """Report until a plan is proposed; return the plan without applying it."""
    while True:
        measured = {
            slot_id: run.worth[slot_id[0], seed.blueprint_id]
            for slot_id, seed in run.trainer.seeds.items()
            if seed.blueprint_id
        }
        plans = [
            operation
            for operation in run.trainer.report(contributions=measured)
            if operation.operations
        ]
        if plans:
            return plans[0]


@pytest.mark.parametrize("b", [0.03, 0.18], ids=["specialize", "ensemble"])
def test_a_refused_reweight_keeps_the_alpha_and_is_proposed_again(
    b: float,
) -> None:
    run = Run(flat("conv", a=0.2, b=b), {"conv": 3}, TWO, ensemble="softmax")
    refused = next_plan(run)
    run.trainer.refuse(refused)
    again = next_plan(run)
    assert operations(again, Reweight)
    assert again.operations == refused.operations
    assert {trial.alpha for trial in run.trainer.fold_state.trials} == {0.5}


def test_an_alpha_changed_elsewhere_is_accepted_as_reported() -> None:
    run = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")])
    run.go()
    run.trainer.seeds["conv", 0].alpha = 0.25
    run.go()
    (trial,) = run.trainer.fold_state.trials
    assert trial.alpha == 0.25


def test_a_run_without_orchestration_records_no_active_strategy() -> None:
    trainer = Trainer({"conv": 2})
    trainer.report()
    (decision,) = trainer.report(kernel("conv", "a"))
    assert decision.active_strategy is None
    assert trainer.fold_state.strategy_state is None
    assert b"agenda" not in trainer.fold_state.to_bytes()  # codespell:ignore agenda
