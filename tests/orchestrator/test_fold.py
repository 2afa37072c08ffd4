"""Specification of the fold: which report leads to which decision and state."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from esper.audit import cause_of
from esper.orchestrator import Folded, FoldError, FoldState, RunUnfoldable, SequenceGap, fold
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, digest, encode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    Candidate,
    Cause,
    Cull,
    Fossilize,
    Plant,
    PolicySpec,
    PolicyStamp,
    RandomStamp,
    SeedReport,
)
from tests.orchestrator.trainer import INTERVAL, RULES, Trainer, grown_run, kernel, selection
from tests.topics.events import reports


@pytest.fixture
def trainer() -> Trainer:
    """Return an opened run with one site of two slots and no loadable kernel."""
    opened = Trainer({"fc": 2})
    assert opened.report() == ()
    return opened


def on_trial(trainer: Trainer, blueprint: str) -> Plant:
    """Plant a kernel at `fc`; the next report is its first measurement."""
    decisions = trainer.report(kernel("fc", blueprint))
    trainer.accept(decisions)
    trainer.report()
    (plant,) = decisions[0].operations
    assert isinstance(plant, Plant)
    return plant


def with_operations(decisions: Sequence[AdaptationDecision]) -> list[AdaptationDecision]:
    """Return the decisions that have operations."""
    return [decision for decision in decisions if decision.operations]


def arm_of(state: FoldState, blueprint: str) -> tuple[int, float]:
    """Return pulls and mean reward of an arm at `fc`."""
    (arm,) = [arm for arm in state.arms if arm.kernel.blueprint_id == blueprint]
    return arm.pulls, arm.mean


# -- contents of a decision ---------------------------------------------------------------------


def test_a_decision_has_its_cause_policy_candidates_and_state_digests(
    trainer: Trainer,
) -> None:
    before = trainer.fold_state
    arm_features = [kernel("fc", "a"), kernel("fc", "b")]
    (decision,) = trainer.report(*arm_features)
    record = trainer.reports[-1]
    plant = decision.operations[0]
    assert decision.decision_id == AdaptationDecision.id_of("run", 1, 0)
    assert (decision.run_id, decision.seq, decision.index) == ("run", 1, 0)
    assert decision.strategy == "diversify"
    assert decision.reason == f"fc: {plant.blueprint_id} was never tried"  # type: ignore[union-attr]
    assert decision.apply_at_step == INTERVAL + 1
    assert decision.cause == Cause(
        topic="seed-metrics",
        partition=record.partition,
        offset=record.offset,
        seq=1,
        sha256=sha256_of(record.value or b""),
    )
    assert decision.policy == PolicyStamp(
        name="ucb1", version=1, params_sha256=digest(PolicySpec())
    )
    assert {candidate.kernel_id for candidate in decision.candidates} == {
        offer.kernel_id for offer in arm_features
    }
    assert decision.candidates[0].kernel_id == plant.kernel_id
    assert decision.random == RandomStamp(seed=7, seq=1, purpose="selection")
    assert decision.state_before_sha256 == before.sha256()
    assert decision.state_after_sha256 == trainer.fold_state.sha256()
    assert decision.previous_sha256 is None


def test_the_digest_of_the_policy_depends_on_its_parameters() -> None:
    digests = set()
    for exploration in (1.0, 2.0):
        trainer = Trainer({"fc": 1}, policy=PolicySpec(params={"exploration": exploration}))
        (decision,) = trainer.report(kernel("fc", "a"))
        digests.add(decision.policy.params_sha256)
    assert len(digests) == 2


def test_decisions_of_a_run_are_chained_by_the_digests_of_their_records() -> None:
    records = grown_run().decisions
    previous = None
    for record in records:
        assert decode(AdaptationDecision, record.value).previous_sha256 == previous
        previous = sha256_of(record.value or b"")


def test_two_decisions_on_one_report_are_numbered_and_chained() -> None:
    """REPLACE comes first; DIVERSIFY sees the state after it."""
    three = selection(max_on_trial=3, trial_reports=1)
    trainer = Trainer({"fc": 3}, selection=three)
    trainer.report()
    on_trial(trainer, "a")
    arm_features = kernel("fc", "b"), kernel("fc", "c")
    decisions = trainer.report(*arm_features, contributions={("fc", 0): 0.0})
    replace, diversify = decisions
    assert (replace.strategy, diversify.strategy) == ("replace", "diversify")
    assert (replace.index, diversify.index) == (0, 1)
    assert diversify.previous_sha256 == sha256_of(encode(replace))
    planted = [op for one in decisions for op in one.operations if isinstance(op, Plant)]
    assert {plant.slot for plant in planted} == {1, 2}
    assert {plant.blueprint_id for plant in planted} == {"b", "c"}
    excluded = {arm.blueprint_id: arm.excluded for arm in diversify.candidates}
    assert excluded["a"] == "it is being culled"


def test_candidates_are_recorded_with_score_and_constraint(
    trainer: Trainer,
) -> None:
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): 0.2})
    (decision,) = trainer.report(kernel("fc", "b"), contributions={("fc", 0): 0.2})
    pulls, mean = arm_of(trainer.fold_state, "a")
    assert decision.candidates == (
        Candidate(
            site="fc",
            blueprint_id="b",
            kernel_id=kernel("fc", "b").kernel_id,
            pulls=0,
            mean=None,
            score=None,
        ),
        Candidate(
            site="fc",
            blueprint_id="a",
            kernel_id=kernel("fc", "a").kernel_id,
            pulls=pulls,
            mean=mean,
            score=mean,  # ln 1 is 0: no other arm was tried
            excluded="category a is present at the site",
            constraint="category-present",
        ),
    )


# -- planting -----------------------------------------------------------------------------------


def test_the_first_free_slot_is_planted_with_a_ramp_of_one_report_interval(
    trainer: Trainer,
) -> None:
    (decision,) = trainer.report(kernel("fc", "a"))
    assert decision.operations == (
        Plant(
            site="fc",
            slot=0,
            kernel_id=kernel("fc", "a").kernel_id,
            blueprint_id="a",
            alpha=1.0,
            ramp_steps=INTERVAL,
        ),
    )


def test_every_arm_is_tried_once_before_one_is_tried_twice() -> None:
    trainer = grown_run(reports=40)
    planted = [
        (op.site, op.kernel_id)
        for record in trainer.decisions
        for op in decode(AdaptationDecision, record.value).operations
        if isinstance(op, Plant)
    ]
    assert len(set(planted[:6])) == 6


def test_equal_scores_are_ordered_by_the_seed_of_the_run_and_not_by_name() -> None:
    first = set()
    for seed in range(20):
        trainer = Trainer({"fc": 1}, seed=seed)
        (decision,) = trainer.report(kernel("fc", "a"), kernel("fc", "b"), kernel("fc", "c"))
        first.add(decision.operations[0].kernel_id)
    assert len(first) == 3


def test_a_kernel_for_a_site_without_slots_is_not_planted(trainer: Trainer) -> None:
    assert with_operations(trainer.report(kernel("elsewhere", "a"))) == []


def test_a_category_present_at_the_site_is_not_planted_again(trainer: Trainer) -> None:
    trainer.accept(trainer.report(kernel("fc", "a", "gate"), kernel("fc", "b", "gate")))
    assert with_operations(trainer.report()) == []
    (decision,) = with_operations(trainer.report(kernel("fc", "c", "skip")))
    assert decision.operations[0].kernel_id == kernel("fc", "c").kernel_id


def test_a_category_stays_present_when_a_newer_kernel_supersedes_the_planted_one(
    trainer: Trainer,
) -> None:
    trainer.accept(trainer.report(kernel("fc", "a", "gate")))
    assert with_operations(trainer.report(kernel("fc", "a", "gate", version=2))) == []


def test_a_new_kernel_of_a_known_blueprint_starts_without_trials(trainer: Trainer) -> None:
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): 0.2})
    trainer.accept(trainer.report(contributions={("fc", 0): 0.2}))
    assert arm_of(trainer.fold_state, "a")[0] == 1
    trainer.report(kernel("fc", "a", version=2))
    assert arm_of(trainer.fold_state, "a") == (0, 0.0)


def test_no_plan_is_made_while_a_decision_is_pending(trainer: Trainer) -> None:
    (decision,) = trainer.report(kernel("fc", "a"), kernel("fc", "b"))
    trainer.reserve(decision)
    for _ in range(3):
        assert with_operations(trainer.report()) == []
    trainer.apply(decision)
    (second,) = trainer.report()
    assert second.operations[0].kernel_id != decision.operations[0].kernel_id


def test_a_refused_kernel_is_under_embargo(trainer: Trainer) -> None:
    (decision,) = trainer.report(kernel("fc", "a"))
    trainer.reserve(decision)
    trainer.refuse(decision)
    refused_at = trainer.seq
    for _ in range(RULES.limits.embargo_reports):
        assert with_operations(trainer.report()) == []
    assert trainer.seq == refused_at + RULES.limits.embargo_reports
    (again,) = with_operations(trainer.report())
    assert again.operations == decision.operations
    assert again.decision_id != decision.decision_id


# -- trials -------------------------------------------------------------------------------------


def test_a_strong_seed_is_fossilised_after_its_trial(trainer: Trainer) -> None:
    plant = on_trial(trainer, "a")
    assert with_operations(trainer.report(contributions={("fc", 0): 0.1})) == []
    (decision,) = trainer.report(contributions={("fc", 0): 0.1})
    assert decision.strategy == "diversify"
    assert decision.operations == (Fossilize(site="fc", slot=0, kernel_id=plant.kernel_id),)
    assert decision.reason == "fc: a lowers the probe loss by 0.1, kept"
    pulls, mean = arm_of(trainer.fold_state, "a")
    assert pulls == 1
    assert mean > 0.5


def test_a_weak_seed_is_culled_and_a_better_candidate_planted_in_another_slot(
    trainer: Trainer,
) -> None:
    trainer.accept(trainer.report(kernel("fc", "a")))
    trainer.report()
    trainer.report(contributions={("fc", 0): -0.02})
    decisions = trainer.report(kernel("fc", "b"), contributions={("fc", 0): -0.02})
    assert [decision.strategy for decision in decisions] == ["replace"]
    cull, plant = decisions[0].operations
    assert cull == Cull(site="fc", slot=0, kernel_id=kernel("fc", "a").kernel_id)
    assert isinstance(plant, Plant)
    assert (plant.slot, plant.blueprint_id) == (1, "b")
    assert decisions[0].reason == "fc: a raises the probe loss by 0.02; fc: b was never tried"
    assert arm_of(trainer.fold_state, "a")[1] < 0.5


def test_a_plan_does_not_rely_on_the_cull_of_another_plan_of_the_report() -> None:
    """If the trainer refused the cull, three seeds would be on trial."""
    trainer = Trainer({"fc": 4}, selection=selection(trial_reports=1))
    trainer.accept(trainer.report(kernel("fc", "a")))
    trainer.accept(trainer.report(kernel("fc", "b")))
    (cull,) = trainer.report(contributions={("fc", 0): 0.0})
    trainer.refuse(cull)
    arm_features = kernel("fc", "c"), kernel("fc", "d")
    (replace,) = trainer.report(*arm_features, contributions={("fc", 0): 0.0, ("fc", 1): 0.0})
    assert [operation.op for operation in replace.operations] == ["cull", "cull", "plant"]
    trainer.accept([replace])
    (diversify,) = trainer.report()
    assert [operation.op for operation in diversify.operations] == ["plant"]


def test_a_seed_is_judged_by_the_mean_of_its_trial() -> None:
    """Contributions 0, 0 and 0.16 have a mean above `keep_share`."""
    trainer = Trainer({"fc": 1}, selection=selection(trial_reports=3))
    trainer.accept(trainer.report(kernel("fc", "a")))
    trainer.report()
    trainer.report(contributions={("fc", 0): 0.0})
    trainer.report(contributions={("fc", 0): 0.0})
    (decision,) = trainer.report(contributions={("fc", 0): 0.16})
    assert isinstance(decision.operations[0], Fossilize)


def test_a_trial_starts_after_its_warm_up() -> None:
    trainer = Trainer({"fc": 1}, selection=selection(trial_reports=2, warmup_reports=3))
    trainer.accept(trainer.report(kernel("fc", "a")))
    trainer.report()
    for contribution in (-0.9, -0.9, -0.9, 0.06):
        assert not trainer.report(contributions={("fc", 0): contribution})
    (decision,) = trainer.report(contributions={("fc", 0): 0.06})
    assert isinstance(decision.operations[0], Fossilize)


def test_nothing_is_measured_while_a_seed_blends_in(trainer: Trainer) -> None:
    trainer.accept(trainer.report(kernel("fc", "a")))
    trainer.report(contributions={("fc", 0): -9.0})
    (trial,) = trainer.fold_state.trials
    assert trial.contributions == ()


@pytest.mark.parametrize("contribution", [None, 1e200, -1e200])
def test_a_seed_whose_contribution_cannot_be_measured_is_culled_with_reward_zero(
    trainer: Trainer, contribution: float | None
) -> None:
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): contribution})
    (decision,) = trainer.report(contributions={("fc", 0): contribution})
    assert isinstance(decision.operations[0], Cull)
    assert "impossible to measure" in decision.reason
    assert arm_of(trainer.fold_state, "a") == (1, 0.0)


def test_a_seed_under_which_the_probe_loss_is_not_finite_is_culled_with_reward_zero(
    trainer: Trainer,
) -> None:
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): 0.3})
    (decision,) = trainer.report(contributions={("fc", 0): 0.3}, probe_loss=None)
    assert isinstance(decision.operations[0], Cull)
    assert arm_of(trainer.fold_state, "a") == (1, 0.0)


def test_a_trial_is_rewarded_once_even_if_its_seed_stays(trainer: Trainer) -> None:
    """The trainer refuses to cull; later reports give no further reward."""
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): 0.0})
    decisions = trainer.report(contributions={("fc", 0): 0.0})
    for _ in range(4):
        (decision,) = decisions
        trainer.refuse(decision)
        decisions = trainer.report(contributions={("fc", 0): 0.9})
    assert arm_of(trainer.fold_state, "a") == (1, 0.5)
    (trial,) = trainer.fold_state.trials
    assert trial.contributions == (0.0, 0.0)


def test_a_culled_kernel_returns_only_after_the_embargo(trainer: Trainer) -> None:
    on_trial(trainer, "a")
    trainer.report(contributions={("fc", 0): 0.0})
    trainer.accept(trainer.report(contributions={("fc", 0): 0.0}))
    culled_at = trainer.seq - 1
    while not (decisions := with_operations(trainer.report())):
        assert trainer.seq < 100
    assert decisions[0].seq == culled_at + RULES.limits.embargo_reports


# -- the sequence -------------------------------------------------------------------------------


def fold_again(trainer: Trainer, record: Record) -> Folded:
    """Fold a record into the current state of a run."""
    report = decode(SeedReport, record.value)
    return fold(trainer.fold_state, report, cause_of(record, report))


def test_a_duplicate_report_leads_to_no_change_and_no_decision() -> None:
    trainer = grown_run()
    for record in trainer.reports:
        folded = fold_again(trainer, record)
        assert folded.state is trainer.fold_state
        assert folded == Folded(trainer.fold_state)


def test_a_missing_report_is_a_sequence_gap(trainer: Trainer) -> None:
    report = SeedReport(run_id="run", seq=2, step=40)
    with pytest.raises(SequenceGap, match="run run: report 1 is missing, next is 2"):
        fold(trainer.state, report, cause_of(trainer.reports[0], report))


@pytest.mark.parametrize("seq", [0, 1])
def test_a_run_without_a_run_config_cannot_be_folded(trainer: Trainer, seq: int) -> None:
    report = SeedReport(run_id="run", seq=seq, step=0)
    with pytest.raises(RunUnfoldable, match=f"starts with report {seq}, which has no run_config"):
        fold(None, report, cause_of(trainer.reports[0], report))


def test_an_unknown_policy_cannot_be_folded() -> None:
    with pytest.raises(RunUnfoldable, match="run run: no policy 'oracle'"):
        Trainer({"fc": 1}, policy=PolicySpec(name="oracle")).report()


def test_a_parameter_outside_its_range_cannot_be_folded() -> None:
    with pytest.raises(RunUnfoldable, match=r"exploration is -1\.0"):
        Trainer({"fc": 1}, policy=PolicySpec(params={"exploration": -1.0})).report()


def test_the_closing_report_is_answered_by_a_seal(
    trainer: Trainer,
) -> None:
    trainer.report(kernel("fc", "a"))
    (seal,) = trainer.report(kernel("fc", "b"), closing=True)
    assert (seal.strategy, seal.operations) == (None, ())
    assert seal.state_after_sha256 == trainer.fold_state.sha256()
    assert seal.cause.sha256 == sha256_of(trainer.reports[-1].value or b"")


def test_a_report_after_the_closing_report_is_refused(trainer: Trainer) -> None:
    trainer.report(closing=True)
    with pytest.raises(RunUnfoldable, match="run run was closed by report 1; 2 comes after"):
        trainer.report()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(reports, reports)
def test_any_report_is_folded_or_raises_fold_error(first: SeedReport, second: SeedReport) -> None:
    """Any other exception would stop the worker for all runs."""
    cause = Cause(topic="t", partition=0, offset=0, seq=0, sha256="0" * 64)
    try:
        state = fold(None, first.model_copy(update={"seq": 0, "closing": False}), cause).state
        for seq in (1, 2, 3):
            report = second.model_copy(update={"seq": seq, "closing": False})
            state = fold(state, report, cause).state
    except FoldError:
        return


# -- the state ----------------------------------------------------------------------------------


def test_the_state_survives_serialisation() -> None:
    state = grown_run().fold_state
    assert FoldState.from_bytes(state.to_bytes()) == state
    assert FoldState.from_bytes(state.to_bytes()).to_bytes() == state.to_bytes()


@pytest.mark.parametrize("value", [b"", b"{}", b'{"version":0}', b"\xff"])
def test_bytes_of_another_version_are_refused(value: bytes) -> None:
    with pytest.raises(Undecodable, match="not a fold state of this version"):
        FoldState.from_bytes(value)


def test_the_digest_of_the_state_depends_on_every_byte_of_every_report(trainer: Trainer) -> None:
    """White space, which no decision reads, counts too."""
    report = SeedReport(run_id="run", seq=1, step=20)
    states = []
    for value in (encode(report), encode(report) + b" "):
        cause = Cause(topic="t", partition=0, offset=1, seq=1, sha256=sha256_of(value))
        states.append(fold(trainer.state, report, cause).state)
    assert states[0].sha256() != states[1].sha256()
    assert replace(states[0], evidence_sha256=states[1].evidence_sha256) == states[1]


def test_the_digest_of_the_state_excludes_the_decision_that_contains_the_digest() -> None:
    state = grown_run().fold_state
    assert state.sha256() == replace(state, previous_sha256=None).sha256()
