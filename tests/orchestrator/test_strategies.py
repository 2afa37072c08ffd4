"""What an orchestrated run intends: which sign calls for which strategy, and what each one does."""

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
    Strategy,
)
from tests.orchestrator.orchestrated import (
    FOREVER,
    SITES,
    TWO,
    Run,
    course,
    flat,
    one_at_a_time,
    operations,
    signal,
)
from tests.orchestrator.trainer import INTERVAL, Trainer, kernel

# -- DIVERSIFY ----------------------------------------------------------------------------------


def test_where_nothing_is_on_trial_a_round_is_opened_of_as_many_as_may_be_on_trial() -> None:
    run = Run(max_on_trial=3)
    decision = run.first
    assert decision.strategy is Strategy.DIVERSIFY
    assert len(operations(decision, Plant)) == len(decision.operations) == 3
    assert course(decision).why == "nothing is on trial"
    assert course(decision).changed
    assert signal(decision, "idle").on


def test_candidates_at_one_site_share_its_alpha_and_others_have_it_whole() -> None:
    run = Run(max_on_trial=4)
    alphas: dict[str, list[float]] = {}
    for plant in operations(run.first, Plant):
        alphas.setdefault(plant.site, []).append(plant.alpha)
    assert sorted(alphas) == ["conv", "fc"]
    for of_site in alphas.values():
        assert of_site == [1 / len(of_site)] * len(of_site)


def test_candidates_of_a_round_are_of_different_categories_as_long_as_there_are_some() -> None:
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
    """At sites of one signature the trainer would refuse it."""
    shared = kernel("conv", "a")
    arm_features = [shared, shared.model_copy(update={"site": "fc"})]
    run = Run(arm_features=arm_features)
    assert len(operations(run.first, Plant)) == 1


def test_no_round_is_opened_while_one_goes_on_unless_the_loss_is_on_a_plateau() -> None:
    run = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")], plateau_reports=4)
    run.trainer.report(kernel("conv", "b"))
    assert len(run.trainer.seeds) == 1
    falling = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")], trial_reports=30)
    for step in range(20):
        falling.loss = 1.0 / (1 + step)
        falling.go(*([kernel("conv", "b")] if step == 0 else []))
    assert len(falling.said) == 1


def test_on_a_plateau_a_round_is_opened_beside_what_is_on_trial() -> None:
    run = Run({}, {"conv": 3, "fc": 3}, [kernel("conv", "a")], plateau_reports=4, trial_reports=100)
    run.go(kernel("fc", "b"))
    decision = run.until(Strategy.DIVERSIFY)
    assert [plant.blueprint_id for plant in operations(decision, Plant)] == ["b"]
    assert signal(decision, "plateau").on
    assert decision.reason == (
        "fc · DIVERSIFY: b was never tried, at alpha 1; "
        f"since report {course(decision).since_seq}: {course(decision).why}"
    )


def test_a_run_that_waits_for_a_plateau_plants_nothing_while_its_host_learns() -> None:
    run = Run(slots={"conv": 2}, plateau_reports=4, waits_for_plateau=True)
    assert run.said == []
    for step in range(20):
        run.loss = 1.0 / (2 + step)
        assert run.go() is None
    decision = run.until(Strategy.DIVERSIFY)
    assert operations(decision, Plant)
    assert signal(decision, "plateau").on


def test_where_all_is_spent_nothing_is_diversified_and_it_is_said_why() -> None:
    run = Run({}, {"conv": 1}, [kernel("conv", "a")])
    kept = run.until(Strategy.SPECIALIZE)
    assert operations(kept, Fossilize)
    for _ in range(20):
        assert run.go() is None
    assert run.trainer.folded.idle_reason == "no action: all 1 arms are ruled out by no-seed-free"


# -- the tournament -----------------------------------------------------------------------------


def test_a_clear_loser_is_culled_at_the_first_rung_and_pays_for_it() -> None:
    """At two sites, where none dominates another."""
    worth = {("conv", "a"): 0.2, ("fc", "b"): 0.02}
    arm_features = [kernel("conv", "a"), kernel("fc", "b")]
    run = Run(worth, arm_features=arm_features, rung_reports=2)
    decision = run.until(Strategy.DIVERSIFY)
    assert [type(operation) for operation in decision.operations] == [Cull]
    assert decision.operations[0].site == "fc"
    assert "b contributed 2.0% for 2 reports and a at conv 20.0%" in decision.reason
    arm = run.trainer.folded.arms.at("fc", "b")
    assert arm is not None
    assert arm.pulls == 1
    assert arm.mean > 0.5
    assert decision.seq == run.first.seq + 3


def test_half_of_a_round_is_left_after_one_rung_and_a_quarter_after_two() -> None:
    slots = {f"s{slot_id}": 1 for slot_id in range(8)}
    arm_features = [kernel(site, "a") for site in slots]
    worth = {(f"s{slot_id}", "a"): 0.0005 * 3**slot_id for slot_id in range(8)}
    run = Run(worth, slots, arm_features, max_on_trial=8, rung_reports=2, trial_reports=20)
    left = {}
    for _ in range(12):
        run.go()
        trials = run.trainer.folded.trials
        left[max(len(trial.contributions) for trial in trials)] = run.planted
    assert (left[2], left[4], left[8]) == (4, 2, 1)
    assert [trial.site for trial in run.trainer.folded.trials] == ["s7"]


def test_what_is_as_good_as_the_best_is_not_culled_however_clear_the_difference() -> None:
    worth = {("conv", "a"): 0.2, ("fc", "b"): 0.11}
    run = Run(worth, arm_features=[kernel("conv", "a"), kernel("fc", "b")])
    for _ in range(5):
        assert run.go() is None


def test_within_the_noise_none_is_culled() -> None:
    """On the mean one gives more than three times what the other does."""
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


def test_a_seed_that_does_harm_gives_way_at_once_whatever_was_decided_before() -> None:
    worth = flat("conv", a=-0.1)
    run = Run(worth, {"conv": 3}, [kernel("conv", "a")], cooldown_reports=50)
    run.trainer.report(kernel("conv", "b"))
    decision = run.until(Strategy.REPLACE)
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


def test_harm_is_told_from_the_last_reports_only_when_there_are_enough() -> None:
    run = Run(flat("conv", a=-0.1), {"conv": 3}, [kernel("conv", "a")], harm_reports=4)
    decision = run.until(Strategy.REPLACE)
    assert "for 4 reports" in decision.reason


def test_while_a_seed_warms_up_what_it_gives_does_not_count() -> None:
    run = Run(flat("conv", a=-0.01), {"conv": 3}, [kernel("conv", "a")], warmup_reports=8)
    for _ in range(9):
        assert run.go() is None
    run.worth["conv", "a"] = 0.2
    kept = run.until(Strategy.SPECIALIZE)
    assert operations(kept, Fossilize)
    assert "a contributed 20.0% for 6 reports" in kept.reason
    # One report until it is at full alpha, then its warm-up, then its trial.
    assert kept.seq == run.first.seq + 1 + 8 + 6


def test_what_does_harm_while_it_warms_up_goes() -> None:
    run = Run(flat("conv", a=-0.1), {"conv": 3}, [kernel("conv", "a")], warmup_reports=8)
    culled = run.until(Strategy.REPLACE)
    assert operations(culled, Cull)
    assert culled.seq == run.first.seq + 1 + 2


@pytest.mark.parametrize(("gives", "stays"), [(0.09, False), (0.11, True)])
def test_what_is_kept_gives_its_share_of_the_first_loss_too(gives: float, stays: bool) -> None:
    """At a loss of a fifth of the first, both give near half of what is left."""
    run = Run(flat("conv", a=gives), {"conv": 3}, [kernel("conv", "a")], keep_first_share=0.1)
    run.loss = 0.2
    decision = run.until(Strategy.SPECIALIZE if stays else Strategy.REPLACE)
    assert operations(decision, Fossilize if stays else Cull)
    told = signal(decision, "proven" if stays else "weak")
    assert told.threshold == pytest.approx(0.1 / 0.2)
    assert told.value == pytest.approx(gives / 0.2)
    assert f"a contributed {gives / 0.2:.1%} ({gives:.1%} of the first) for 6" in decision.reason


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_seeds_that_warm_up_are_not_compared(names: tuple[str, ...]) -> None:
    """Not one dominates its site, and none is behind in its round."""
    arm_features = [kernel("conv", name) for name in names[:2]] + [
        kernel("fc", n) for n in names[2:]
    ]
    worth = {("conv", "a"): 0.2, ("conv", "b"): 0.02, ("fc", "c"): 0.02}
    run = Run(worth, arm_features=arm_features, max_on_trial=3, warmup_reports=8)
    for _ in range(9 + 1):
        assert run.go() is None
    assert run.go() is not None


def test_a_seed_that_failed_its_trial_gives_way_to_one_expected_to_be_better() -> None:
    run = Run(flat("conv", a=0.001), {"conv": 3}, [kernel("conv", "a")])
    run.trainer.report(kernel("conv", "b"))
    decision = run.until(Strategy.REPLACE)
    assert [operation.op for operation in decision.operations] == ["cull", "plant"]
    assert decision.reason == (
        "conv · REPLACE: a contributed 0.1% for 6 reports, b was never tried"
    )
    assert signal(decision, "weak").threshold == 0.01


def test_the_expectation_is_told_with_its_spread_from_trials_at_the_site() -> None:
    worth = {("conv", "a"): 0.001, ("conv", "b"): 0.005}
    run = one_at_a_time(worth)
    reasons = []
    for step in range(120):
        run.worth["conv", "b"] = 0.005 if step % 40 < 20 else 0.008
        if (decision := run.go()) is not None:
            reasons.append(decision.reason)
    told = " | ".join(reasons)
    assert "b is expected to give 0.5%, by one trial" in told
    assert "b is expected to give 0." in told
    assert " ± 0." in told


def test_nothing_worse_is_planted_in_exchange() -> None:
    worth = {("conv", "a"): 0.001, ("conv", "b"): 0.009}
    run = one_at_a_time(worth)
    for _ in range(80):
        decision = run.go()
        if decision is not None and decision.strategy is Strategy.REPLACE:
            weak = run.trainer.folded.arms.on("conv", decision.operations[0].kernel_id)
            planted = [operation.blueprint_id for operation in operations(decision, Plant)]
            arm = run.trainer.folded.arms.at("conv", "a")
            assert weak is not None
            assert arm is not None
            if weak.kernel.blueprint_id == "b" and arm.pulls:
                assert planted == []


# -- SPECIALIZE ---------------------------------------------------------------------------------


def test_the_dominant_seed_of_a_site_gets_the_whole_alpha_and_the_rest_go() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    decision = run.until(Strategy.SPECIALIZE)
    cull, reweight = decision.operations
    assert isinstance(cull, Cull)
    assert cull.kernel_id == kernel("conv", "b").kernel_id
    assert isinstance(reweight, Reweight)
    assert (reweight.kernel_id, reweight.alpha) == (kernel("conv", "a").kernel_id, 1.0)
    assert reweight.ramp_steps == INTERVAL
    assert signal(decision, "dominant").value == pytest.approx(0.2 / 0.03)


def test_a_reweighting_may_take_several_reports() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO, reweight_reports=5)
    (reweight,) = operations(run.until(Strategy.SPECIALIZE), Reweight)
    assert reweight.ramp_steps == 5 * INTERVAL


def test_what_is_measured_on_the_way_to_another_alpha_does_not_count() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    run.until(Strategy.SPECIALIZE)
    (before,) = [trial for trial in run.trainer.folded.trials if trial.site == "conv"][:1]
    run.worth["conv", "a"] = -9.0
    run.go()
    (trial,) = run.trainer.folded.trials
    assert trial.contributions == (0.2, 0.2)
    assert trial.alpha == 1.0
    assert before.alpha == 0.5


def test_the_dominant_seed_is_kept_when_its_trial_is_passed_and_not_before() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    raised = run.until(Strategy.SPECIALIZE)
    kept = run.until(Strategy.SPECIALIZE)
    assert operations(kept, Fossilize)
    # One report on the way, and four of its six measurements still to come.
    assert kept.seq == raised.seq + 1 + 4
    arm = run.trainer.folded.arms.at("conv", "a")
    assert arm is not None
    assert arm.pulls == 1


def test_a_dominant_seed_that_has_the_whole_alpha_already_goes_on_with_its_trial() -> None:
    run = Run(flat("conv", a=0.2, b=0.03), {"conv": 3}, TWO)
    run.go()
    for seed in run.trainer.seeds.values():
        seed.alpha = 1.0 if seed.blueprint_id == "a" else 0.25
    decision = run.until(Strategy.SPECIALIZE)
    assert [operation.op for operation in decision.operations] == ["cull"]


def test_a_lone_seed_with_part_of_the_alpha_gets_the_whole_before_it_is_kept() -> None:
    run = Run(flat("conv", a=0.2, b=-0.5), {"conv": 3}, TWO)
    assert run.until(Strategy.REPLACE)
    raised = run.until(Strategy.SPECIALIZE)
    assert [operation.op for operation in raised.operations] == ["reweight"]
    kept = run.until(Strategy.SPECIALIZE)
    assert [operation.op for operation in kept.operations] == ["fossilize"]


# -- ENSEMBLE -----------------------------------------------------------------------------------


def test_comparable_seeds_of_a_site_are_kept_together_when_their_trials_are_over() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO)
    decision = run.until(Strategy.ENSEMBLE)
    assert [operation.op for operation in decision.operations] == ["fossilize", "fossilize"]
    assert "kept together" in decision.reason
    assert signal(decision, "comparable").on
    assert decision.seq == run.first.seq + 1 + 6


def test_softmax_weights_are_in_proportion_and_their_sum_stays() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO, ensemble="softmax", temperature=0.02)
    with_alpha = run.until(Strategy.ENSEMBLE)
    alphas = {
        operation.kernel_id: operation.alpha for operation in operations(with_alpha, Reweight)
    }
    first, second = (alphas[kernel.kernel_id] for kernel in TWO)
    assert first + second == pytest.approx(1.0)
    assert first / second == pytest.approx(2.718281828)
    kept = run.until(Strategy.ENSEMBLE)
    assert [operation.op for operation in kept.operations] == ["fossilize", "fossilize"]
    assert kept.seq == with_alpha.seq + 2


def test_weights_are_changed_once_however_contributions_move_on() -> None:
    run = Run(flat("conv", a=0.2, b=0.18), {"conv": 3}, TWO, ensemble="softmax")
    run.until(Strategy.ENSEMBLE)
    run.worth = dict(flat("conv", a=0.18, b=0.2))
    kept = run.until(Strategy.ENSEMBLE)
    assert {operation.op for operation in kept.operations} == {"fossilize"}


def test_of_three_the_one_that_is_not_comparable_goes_when_the_others_are_kept() -> None:
    three = [*TWO, kernel("conv", "c")]
    run = Run(
        flat("conv", a=0.2, b=0.12, c=0.08), {"conv": 3}, three, max_on_trial=3, limits=FOREVER
    )
    seen = [run.until(Strategy.ENSEMBLE)]
    while not operations(seen[-1], Fossilize):
        seen.append(run.until(Strategy.ENSEMBLE))
    culled = [
        operation.kernel_id for decision in run.said for operation in operations(decision, Cull)
    ]
    assert culled == [kernel("conv", "c").kernel_id]


@pytest.mark.parametrize("rung_reports", [2, 1000])
@pytest.mark.parametrize("ratio", [1.2, 1.7, 2.5, 10.0])
def test_every_pair_is_settled_in_the_end(ratio: float, rung_reports: int) -> None:
    """Between the thresholds nothing is done before the trials are over, and then it is."""
    run = Run(
        flat("conv", a=0.2, b=0.2 / ratio),
        {"conv": 3},
        TWO,
        limits=FOREVER,
        rung_reports=rung_reports,
    )
    for _ in range(25):
        run.go()
    assert run.trainer.folded.trials == ()
    kept = [operation for decision in run.said for operation in operations(decision, Fossilize)]
    assert len(kept) == (2 if ratio <= 2 else 1)


# -- what follows from refusals and from others -------------------------------------------------


def asked_of(run: Run) -> AdaptationDecision:
    """Report until something is asked for, which is not answered yet."""
    while True:
        measured = {
            slot_id: run.worth[slot_id[0], seed.blueprint_id]
            for slot_id, seed in run.trainer.seeds.items()
            if seed.blueprint_id
        }
        asked = [
            operation
            for operation in run.trainer.report(contributions=measured)
            if operation.operations
        ]
        if asked:
            return asked[0]


@pytest.mark.parametrize("b", [0.03, 0.18], ids=["specialize", "ensemble"])
def test_a_refused_change_of_alpha_leaves_the_alpha_as_it_was_and_is_asked_for_again(
    b: float,
) -> None:
    run = Run(flat("conv", a=0.2, b=b), {"conv": 3}, TWO, ensemble="softmax")
    refused = asked_of(run)
    run.trainer.refuse(refused)
    again = asked_of(run)
    assert operations(again, Reweight)
    assert again.operations == refused.operations
    assert {trial.alpha for trial in run.trainer.folded.trials} == {0.5}


def test_an_alpha_that_someone_else_has_changed_is_taken_as_it_is() -> None:
    run = Run(flat("conv", a=0.05), {"conv": 3}, [kernel("conv", "a")])
    run.go()
    run.trainer.seeds["conv", 0].alpha = 0.25
    run.go()
    (trial,) = run.trainer.folded.trials
    assert trial.alpha == 0.25


def test_a_run_without_orchestration_tells_of_no_course() -> None:
    trainer = Trainer({"conv": 2})
    trainer.report()
    (decision,) = trainer.report(kernel("conv", "a"))
    assert decision.course is None
    assert trainer.folded.strategy_state is None
    assert b"agenda" not in trainer.folded.to_bytes()  # codespell:ignore agenda
