"""Runs with a selection: limits hold across reports, and states survive serialisation."""

from collections.abc import Mapping, Sequence

import pytest

from esper.audit import RunRecords, audit, cause_of
from esper.bandit import POLICIES
from esper.orchestrator import FoldState, RunUnfoldable, build_view, fold
from esper.topics.bus import Record
from esper.topics.catalog import MAX_MESSAGE_BYTES
from esper.topics.codec import decode, encode
from esper.topics.models import (
    AdaptationDecision,
    KernelCost,
    MemorySnapshot,
    Orchestration,
    Plant,
    PolicySpec,
    RememberedArm,
    SeedReport,
    SeedState,
    Selection,
    SiteFacts,
    SiteKind,
)
from tests.orchestrator.trainer import Seed, Trainer, grown_run, kernel, selection

NAMES = sorted(POLICIES)
UCB1 = PolicySpec()


def plants(decisions: Sequence[AdaptationDecision]) -> list[Plant]:
    """Return all Plant operations of the decisions."""
    return [
        operation
        for decision in decisions
        for operation in decision.operations
        if isinstance(operation, Plant)
    ]


def run_until_planted(trainer: Trainer, limit: int = 60) -> list[Plant]:
    """Report until a kernel is planted; return [] if none is within `limit` reports."""
    while trainer.seq < limit:
        decisions = trainer.report()
        if planted := plants(decisions):
            return planted
    return []


# -- dormant time -------------------------------------------------------------------------------


def test_nothing_is_planted_before_dormant_reports_have_passed() -> None:
    trainer = Trainer({"fc": 2}, selection=selection(dormant_reports=5))
    trainer.report(kernel("fc", "a"))
    run_until_planted(trainer)
    assert trainer.seq - 1 == 4, "the fifth report of the run"


def test_a_culled_slot_is_planted_again_after_dormant_reports() -> None:
    trainer = Trainer({"fc": 1}, selection=selection(dormant_reports=5, embargo_reports=1))
    trainer.report(kernel("fc", "a"), kernel("fc", "b"))
    trainer.state, decisions = trainer.state, []
    while not plants(decisions):
        decisions = list(trainer.report())
    trainer.accept(decisions)
    while "fc" in {site for site, _ in trainer.seeds}:
        trainer.accept(trainer.report(contributions={("fc", 0): 0.0}))
    empty_since = trainer.seq
    (planted,) = run_until_planted(trainer)
    assert trainer.seq - empty_since == 5
    assert planted.slot == 0


# -- budgets, rotation, pins --------------------------------------------------------------------


def test_planted_parameters_count_against_the_budget() -> None:
    trainer = Trainer({"fc": 3}, selection=selection(max_on_trial=3, max_params=250))
    trainer.report()
    trainer.accept(trainer.report(kernel("fc", "a"), kernel("fc", "b"), kernel("fc", "c")))
    trainer.accept(trainer.report())
    (no_action,) = trainer.report()
    assert len(trainer.seeds) == 2
    assert no_action.reason == "no action: all 3 arms are ruled out by category-present, params"
    excluded = next(
        candidate for candidate in no_action.candidates if candidate.constraint == "params"
    )
    assert excluded.excluded == "too much for the parameters budget: 200 of 80% of 250 are used"


@pytest.mark.parametrize(("budget", "is_left"), [(125, False), (250, True)])
def test_the_plans_of_one_report_share_the_remaining_budget(budget: int, is_left: bool) -> None:
    trainer = Trainer({"fc": 4}, selection=selection(max_params=budget))
    trainer.report(*(kernel("fc", name) for name in "abcd"))
    view = build_view(trainer.fold_state, decode(SeedReport, trainer.reports[-1].value))
    first = view.best()
    assert first is not None
    second = view.beside((view.plant(first),)).best()
    assert (second is not None) is is_left


def test_kernel_latency_counts_against_its_budget() -> None:
    half = KernelCost(flops=1, latency_ratio=0.5)
    trainer = Trainer({"fc": 3}, selection=selection(max_on_trial=3, max_latency_ratio=1.3))
    trainer.report()
    trainer.accept(trainer.report(*(kernel("fc", name, cost=half) for name in "abc")))
    trainer.accept(trainer.report())
    (no_action,) = trainer.report()
    assert len(trainer.seeds) == 2
    assert no_action.reason.endswith("category-present, latency")


@pytest.mark.parametrize("seed", range(8))
def test_rotation_excludes_the_category_planted_last(seed: int) -> None:
    trainer = Trainer({"fc": 4}, selection=selection(rotation=1, max_on_trial=4), seed=seed)
    trainer.report()
    offered = {"a": "gate", "b": "gate", "c": "skip", "d": "skip"}
    decisions = trainer.report(*(kernel("fc", *item) for item in offered.items()))
    (first,) = plants(decisions)
    trainer.reserve(decisions[0])
    trainer.refuse(decisions[0])
    (second,) = run_until_planted(trainer)
    assert offered[second.blueprint_id] != offered[first.blueprint_id]


def test_rotation_does_not_exclude_the_only_category_of_a_site() -> None:
    trainer = Trainer({"fc": 2}, selection=selection(rotation=3))
    trainer.report()
    (decision,) = trainer.report(kernel("fc", "a", "gate"))
    trainer.reserve(decision)
    trainer.refuse(decision)
    assert run_until_planted(trainer)


def test_only_pinned_blueprints_are_planted_at_a_site() -> None:
    trainer = Trainer({"fc": 2, "conv": 1}, selection=selection(pinned={"fc": ("b",)}))
    trainer.report()
    trainer.accept(trainer.report(kernel("fc", "a"), kernel("fc", "b"), kernel("fc", "c")))
    assert [seed.blueprint_id for seed in trainer.seeds.values()] == ["b"]


def test_a_forbidden_blueprint_is_not_planted_and_the_constraint_is_recorded() -> None:
    trainer = Trainer({"fc": 2}, selection=selection(forbidden=("a",)))
    trainer.report()
    (no_action,) = trainer.report(kernel("fc", "a"))
    assert no_action.operations == ()
    assert no_action.candidates[0].excluded == "the run forbids it"
    assert no_action.candidates[0].constraint == "forbidden"


# -- no action ----------------------------------------------------------------------------------


def test_the_reason_for_no_action_is_given_once_until_it_changes() -> None:
    trainer = Trainer({"fc": 1}, selection=selection(dormant_reports=3))
    (no_action,) = trainer.report(kernel("fc", "a"))
    assert (no_action.strategy, no_action.operations) == (None, ())
    assert no_action.reason == "no action: all 1 arms are ruled out by dormant-time"
    assert trainer.report() == ()
    trainer.accept(trainer.report())
    assert list(trainer.seeds) == [("fc", 0)]
    (no_action,) = trainer.report()
    assert no_action.reason == "no action: all 1 arms are ruled out by no-seed-free"
    assert trainer.report(contributions={("fc", 0): 0.5}) == ()


# -- priors -------------------------------------------------------------------------------------


VECTOR = SiteFacts(kind=SiteKind.VECTOR, signature="vector:8>8", depth=0.5, params=72)


def test_memory_of_earlier_runs_decides_the_first_trial_and_is_recorded() -> None:
    memory = MemorySnapshot(
        family="digits",
        arms=(
            RememberedArm(signature="vector:8>8", blueprint_id="b", weight=9.0, mean=0.9),
            RememberedArm(signature="vector:8>8", blueprint_id="a", weight=2.0, mean=0.1),
            RememberedArm(signature="vector:8>9", blueprint_id="a", weight=9.0, mean=1.0),
        ),
    )
    for seed in range(20):
        trainer = Trainer(
            {"fc": 1},
            selection=selection(memory=4.0),
            sites={"fc": VECTOR},
            memory=memory,
            policy=PolicySpec(params={"exploration": 0.0}),
            seed=seed,
        )
        trainer.report()
        (decision,) = trainer.report(kernel("fc", "a"), kernel("fc", "b"))
        assert [candidate.blueprint_id for candidate in decision.candidates] == ["b", "a"]
        assert plants([decision])[0].blueprint_id == "b"
        by_blueprint = {candidate.blueprint_id: candidate for candidate in decision.candidates}
        assert (by_blueprint["b"].prior_weight, by_blueprint["b"].prior_mean) == (4.0, 0.9)
        assert (by_blueprint["a"].prior_weight, by_blueprint["a"].prior_mean) == (2.0, 0.1)
        assert decision.reason == "fc: b scores 0.900 and was never tried"


# -- attention ----------------------------------------------------------------------------------


def test_with_attention_a_decision_records_the_scores_of_all_seeds() -> None:
    trainer = Trainer({"conv": 1, "fc": 2}, selection=selection(attention=UCB1))
    trainer.report()
    (decision,) = trainer.report(*(kernel(site, "a") for site in ("conv", "fc")))
    assert {(seed.site, seed.slot) for seed in decision.seeds} == {
        ("conv", 0),
        ("fc", 0),
        ("fc", 1),
    }
    assert decision.attention is not None
    assert decision.attention.name == "ucb1"
    assert all(seed.free and seed.score is None for seed in decision.seeds)


def test_seeds_of_the_better_site_get_attention_first() -> None:
    """Four seeds are tried once; after that only those of the better site."""
    greedy = PolicySpec(params={"exploration": 0.0})
    trainer = Trainer(
        {"conv": 2, "fc": 2},
        selection=selection(attention=greedy, embargo_reports=1, keep_share=1.0, max_on_trial=1),
    )
    arm_features = [kernel(site, name) for site in ("conv", "fc") for name in ("a", "b", "c")]
    decisions: Sequence[AdaptationDecision] = trainer.report(*arm_features)
    planted: list[tuple[str, int]] = []
    while len(planted) < 7:
        trainer.accept(decisions)
        planted += [(plant.site, plant.slot) for plant in plants(decisions)]
        worth = {index: 0.2 if index[0] == "fc" else 0.01 for index in trainer.seeds}
        decisions = trainer.report(contributions=worth)
    assert sorted(planted[:4]) == [("conv", 0), ("conv", 1), ("fc", 0), ("fc", 1)]
    assert {site for site, _ in planted[4:]} == {"fc"}


def test_a_run_with_more_arms_than_a_decision_can_list_is_refused() -> None:
    """Decisions of the largest run that is accepted fit into a record."""
    sites = [f"layer{number}" for number in range(1250)]
    trainer = Trainer(dict.fromkeys(sites, 1), selection=selection(attention=UCB1, memory=1.0))
    trainer.report()
    arm_features = [kernel(site, f"blueprint-{name}") for site in sites for name in range(8)]
    (decision,) = trainer.report(*arm_features)
    assert len(decision.candidates) == 10_000
    assert len(encode(decision)) < MAX_MESSAGE_BYTES
    trainer.accept([decision])
    with pytest.raises(RunUnfoldable, match="10001 arms exceed the limit of 10000"):
        trainer.report(kernel("layer0", "one-more"))


@pytest.mark.parametrize("attention", [None, UCB1])
@pytest.mark.parametrize("slots", [{}, {"fc": 1}])
def test_nothing_is_planted_in_a_slot_that_is_not_in_the_run_config(
    attention: PolicySpec | None, slots: dict[str, int]
) -> None:
    trainer = Trainer(slots, selection=selection(attention=attention))
    trainer.seeds = {
        ("elsewhere", 0): Seed(SeedState.ACTIVE, "0" * 64, "a"),
        ("fc", 7): Seed(SeedState.ACTIVE, "0" * 64, "a"),
    }
    decisions = trainer.report(kernel("fc", "a"), kernel("elsewhere", "a"))
    assert [(plant.site, plant.slot) for plant in plants(decisions)] in ([], [("fc", 0)])
    for _ in range(12):
        trainer.report(contributions=dict.fromkeys(trainer.seeds, 0.5))


# -- under every policy -------------------------------------------------------------------------


def fold_all(reports: Sequence[Record], restore: bool) -> list[bytes]:
    """Return the encoded decisions; with `restore`, serialise the state after every report."""
    state: FoldState | None = None
    values = []
    for record in reports:
        report = decode(SeedReport, record.value)
        state, decisions, _ = fold(state, report, cause_of(record, report))
        if restore:
            back = FoldState.from_bytes(state.to_bytes())
            assert back.to_bytes() == state.to_bytes()
            state = back
        values += [encode(decision) for decision in decisions]
    return values


def selection_with_attention(name: str) -> Selection:
    """Return a selection with attention by a policy, or by UCB1 if the policy is contextual."""
    spec = UCB1 if POLICIES[name].contextual else PolicySpec(name=name)  # type: ignore[attr-defined]
    return selection(attention=spec, dormant_reports=2, rotation=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", [False, True])
def test_a_worker_restarted_after_any_report_makes_the_same_decisions(
    name: str, attention: bool
) -> None:
    run = grown_run(
        reports=60,
        selection=selection_with_attention(name) if attention else selection(),
        policy=PolicySpec(name=name),
    )
    recorded = [record.value for record in run.decisions]
    assert len(recorded) > 10
    assert fold_all(run.reports, restore=False) == recorded
    assert fold_all(run.reports, restore=True) == recorded
    assert run.fold_state.tracker.trials > 3


@pytest.mark.parametrize("name", NAMES)
def test_the_audit_rederives_every_decision_under_every_policy(name: str) -> None:
    run = grown_run(
        reports=60, selection=selection_with_attention(name), policy=PolicySpec(name=name)
    )
    verdict = audit(RunRecords("run", tuple(run.reports), tuple(run.decisions)))
    assert verdict.identical, str(verdict)
    assert verdict.closed


@pytest.mark.parametrize(
    ("run_config", "complaint"),
    [
        ({"policy": PolicySpec(name="oracle")}, "no policy 'oracle'"),
        (
            {"selection": selection(attention=PolicySpec(name="oracle"))},
            "no policy 'oracle'",
        ),
        (
            {"selection": selection(attention=PolicySpec(name="linear-thompson"))},
            "policy linear-thompson judges blueprints and cannot choose seeds",
        ),
    ],
)
def test_a_run_config_with_an_unusable_policy_is_refused(
    run_config: Mapping[str, object], complaint: str
) -> None:
    with pytest.raises(RunUnfoldable, match=complaint):
        Trainer({"fc": 1}, **run_config).report()  # type: ignore[arg-type]


def test_a_contextual_policy_learns_from_every_trial() -> None:
    run = grown_run(
        reports=60,
        selection=selection_with_attention("linear-thompson"),
        policy=PolicySpec(name="linear-thompson"),
    )
    assert run.fold_state.model is not None
    assert len(run.fold_state.model.response) > 1
    assert any(run.fold_state.model.response)


def test_default_selection_fields_are_not_serialised() -> None:
    dumped = Selection(orchestration=Orchestration()).model_dump()
    assert not {"warmup_reports", "keep_first_share"} & set(dumped)
    assert not {"waits_for_plateau", "reweight_reports"} & set(dumped["orchestration"])
