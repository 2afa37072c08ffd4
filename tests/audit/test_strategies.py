"""A committed real run for every strategy: all its decisions are derived again."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.audit import audit, read_history
from esper.topics.codec import decode, encode
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Plant,
    Reweight,
    SeedReport,
)
from tests.audit.tampering import changed, forged

FOLDER = Path(__file__).parent / "histories" / "strategies"

DOES = {
    "replace": Cull,
    "diversify": Plant,
    "specialize": Fossilize,
    "ensemble": Reweight,
}
"""An operation that a run contains only if the strategy took effect."""


def test_every_strategy_has_a_history() -> None:
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == set(DOES)


@pytest.mark.parametrize("strategy", DOES)
def test_the_history_of_a_strategy_is_identical_and_has_its_decisions(strategy: str) -> None:
    history = read_history(FOLDER / f"{strategy}.jsonl")
    result = audit(history)
    assert result.identical, str(result)
    assert result.closed
    decisions = [decode(AdaptationDecision, record.value) for record in history.decisions]
    of_it = [decision for decision in decisions if decision.strategy == strategy]
    operations = [operation for decision in of_it for operation in decision.operations]
    assert any(isinstance(operation, DOES[strategy]) for operation in operations)
    for decision in of_it:
        assert decision.active_strategy is not None
        assert decision.active_strategy.strategy == strategy
        assert f" · {strategy.upper()}: " in decision.reason


@pytest.mark.parametrize("strategy", DOES)
def test_a_changed_strategy_choice_in_a_decision_is_found(strategy: str) -> None:
    """The digest in the record is forged to match."""
    history = read_history(FOLDER / f"{strategy}.jsonl")
    decisions = [decode(AdaptationDecision, record.value) for record in history.decisions]
    place = next(place for place, decision in enumerate(decisions) if decision.strategy == strategy)
    choice = decisions[place].active_strategy
    assert choice is not None
    other = choice.model_copy(update={"why": f"{choice.why}, they say"})
    value = encode(decisions[place].model_copy(update={"course": other}))
    altered = forged(history.decisions[place], value)
    tampered = replace(history, decisions=changed(history.decisions, place, altered))
    assert not audit(tampered).identical


@pytest.mark.parametrize("strategy", DOES)
def test_a_changed_alpha_in_a_report_is_found(strategy: str) -> None:
    history = read_history(FOLDER / f"{strategy}.jsonl")
    reports = [decode(SeedReport, record.value) for record in history.reports]
    place = next(place for place, report in enumerate(reports) if report.seeds)
    seeds = tuple(
        seed.model_copy(update={"alpha": seed.alpha / 3}) for seed in reports[place].seeds
    )
    value = encode(reports[place].model_copy(update={"seeds": seeds}))
    altered = forged(history.reports[place], value)
    tampered = replace(history, reports=changed(history.reports, place, altered))
    assert not audit(tampered).identical
