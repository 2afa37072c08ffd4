"""When a run changes its strategy, and when thresholds or the cooldown prevent a change."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from esper.orchestrator.state import StrategyState
from esper.orchestrator.strategies import RULES
from esper.orchestrator.strategy_selection import Rule, SignalReading, choose_strategy
from esper.topics.models import Orchestration
from tests.orchestrator.orchestrated import TWO, Run, flat

RATIO = Orchestration(dominance=3.0, dominance_stay=2.0, cooldown_reports=3)


def reading(name: str, enters: bool = True, stays: bool = True) -> SignalReading:
    """Return a reading of a signal that selects (`enters`) or keeps (`stays`) its strategy."""
    return SignalReading(name, 1.0, 0.0, 0.0, enters, stays, f"{name} is on")


def after(
    strategy_state: StrategyState,
    *readings: SignalReading,
    seq: int = 10,
    rules: Sequence[Rule] = RULES,
) -> StrategyState:
    return choose_strategy(rules, strategy_state, RATIO, readings, seq)


def following(strategy: str, since_seq: int = 0) -> StrategyState:
    return StrategyState(strategy=strategy, since_seq=since_seq, why="earlier signal")


@pytest.mark.parametrize(
    ("names", "strategy"),
    [
        (["harmful"], "replace"),
        (["weak"], "replace"),
        (["dominant"], "specialize"),
        (["proven"], "specialize"),
        (["comparable"], "ensemble"),
        (["plateau"], "diversify"),
        (["idle"], "diversify"),
        (["plateau", "spent"], None),
        (["idle", "comparable", "dominant", "weak", "harmful"], "replace"),
        (["idle", "comparable", "dominant"], "specialize"),
        (["plateau", "comparable"], "ensemble"),
        ([], None),
    ],
)
def test_the_first_matching_rule_decides(names: list[str], strategy: str | None) -> None:
    found = after(StrategyState(), *map(reading, names))
    assert found.strategy == strategy
    assert found.since_seq == (10 if strategy else 0)


def test_the_reason_names_the_signal() -> None:
    assert after(StrategyState(), reading("idle"), reading("weak")).why == "weak is on"


def test_without_a_signal_the_strategy_stays() -> None:
    strategy_state = following("ensemble")
    assert after(strategy_state) is strategy_state


def test_a_signal_that_is_off_selects_nothing() -> None:
    assert after(StrategyState(), reading("weak", enters=False, stays=False)).strategy is None


def test_a_signal_between_its_thresholds_keeps_its_strategy_and_starts_no_other() -> None:
    between = reading("dominant", enters=False, stays=True)
    kept = following("specialize")
    assert after(kept, between, reading("idle")) is kept
    assert after(following("ensemble"), between).strategy == "ensemble"
    assert after(following("ensemble"), between, reading("idle")).strategy == "diversify"


@pytest.mark.parametrize(("seq", "changes"), [(11, False), (12, False), (13, True)])
def test_the_strategy_does_not_change_during_the_cooldown(seq: int, changes: bool) -> None:
    strategy_state = following("diversify", since_seq=10)
    found = after(strategy_state, reading("weak"), seq=seq)
    assert (found is not strategy_state) is changes


def test_harm_overrides_the_cooldown() -> None:
    strategy_state = following("diversify", since_seq=10)
    assert after(strategy_state, reading("harmful"), seq=11).strategy == "replace"


def test_the_first_strategy_of_a_run_has_no_cooldown() -> None:
    assert after(StrategyState(), reading("idle"), seq=0).strategy == "diversify"


def test_a_strategy_is_added_by_one_rule_in_the_table() -> None:
    never = Rule(("plateau",), "ensemble", lambda view, readings: None)
    assert after(StrategyState(), reading("plateau"), rules=(never, *RULES)).strategy == "ensemble"


BETWEEN = st.lists(st.floats(2.01, 2.99), min_size=3, max_size=25)
"""Ratio of the two seeds' contributions, per report, between the thresholds 2 and 3."""

EVERY_REPORT = {"trial_reports": 1000, "cooldown_reports": 0, "plateau_reports": 500}
"""Trials that never end, no cooldown and no plateau."""


def compared(ratio: float) -> Run:
    """Return a run with two seeds at one site that have enough measurements to be compared."""
    run = Run(flat("conv", a=0.2 * ratio, b=0.2), {"conv": 2}, TWO, **EVERY_REPORT)
    run.go()
    run.go()
    return run


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(ratios=BETWEEN)
def test_between_the_thresholds_a_run_does_not_start_to_specialise(ratios: list[float]) -> None:
    run = compared(2.5)
    for ratio in ratios:
        run.worth["conv", "a"] = 0.2 * ratio
        run.go()
        strategy_state = run.trainer.fold_state.strategy_state
        assert strategy_state is not None
        assert (strategy_state.strategy, strategy_state.since_seq) == ("diversify", 1)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(ratios=BETWEEN)
def test_between_the_thresholds_a_run_continues_to_specialise(ratios: list[float]) -> None:
    """The trainer refuses every plan, so that both seeds stay."""
    run = compared(2.5)
    trainer = run.trainer
    begun = None
    for ratio in (9.0, *ratios):
        (a,) = [slot_id for slot_id, seed in trainer.seeds.items() if seed.blueprint_id == "a"]
        measured = dict.fromkeys(trainer.seeds, 0.2) | {a: 0.2 * ratio}
        plans = [
            operation
            for operation in trainer.report(contributions=measured)
            if operation.operations
        ]
        for decision in plans:
            trainer.refuse(decision)
        strategy_state = trainer.fold_state.strategy_state
        assert strategy_state is not None
        begun = strategy_state.since_seq if begun is None else begun
        assert (strategy_state.strategy, strategy_state.since_seq) == ("specialize", begun)


@pytest.mark.parametrize(
    "rules",
    [
        {"dominance": 2.0, "dominance_stay": 3.0},
        {"comparable_ratio": 3.0, "comparable_ratio_stay": 2.0},
        {"plateau_share": 0.1, "plateau_share_stay": 0.05},
    ],
)
def test_thresholds_under_which_a_run_would_oscillate_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="the stricter one"):
        Orchestration(**rules)
