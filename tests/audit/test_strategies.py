"""A committed real run in which each strategy decides: each of its decisions is derived again."""

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
    Strategy,
)
from tests.audit.tampering import changed, forged

FOLDER = Path(__file__).parent / "histories" / "strategies"

DOES = {
    Strategy.REPLACE: Cull,
    Strategy.DIVERSIFY: Plant,
    Strategy.SPECIALIZE: Fossilize,
    Strategy.ENSEMBLE: Reweight,
}
"""An operation that only a strategy that truly worked comes to."""


def test_there_is_a_history_of_every_strategy() -> None:
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == set(Strategy)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_history_of_a_strategy_is_identical_and_it_decided_in_it(strategy: Strategy) -> None:
    history = read_history(FOLDER / f"{strategy}.jsonl")
    verdict = audit(history)
    assert verdict.identical, str(verdict)
    assert verdict.closed
    decisions = [decode(AdaptationDecision, record.value) for record in history.decisions]
    of_it = [decision for decision in decisions if decision.strategy is strategy]
    operations = [each for decision in of_it for each in decision.operations]
    assert any(isinstance(each, DOES[strategy]) for each in operations)
    for decision in of_it:
        assert decision.course is not None
        assert decision.course.strategy is strategy
        assert f" · {strategy.upper()}: " in decision.reason


@pytest.mark.parametrize("strategy", Strategy)
def test_another_course_in_a_decision_is_found_out(strategy: Strategy) -> None:
    """Also where the digest in the record was made to fit."""
    history = read_history(FOLDER / f"{strategy}.jsonl")
    decisions = [decode(AdaptationDecision, record.value) for record in history.decisions]
    place = next(place for place, decision in enumerate(decisions) if decision.strategy is strategy)
    course = decisions[place].course
    assert course is not None
    other = course.model_copy(update={"why": f"{course.why}, they say"})
    value = encode(decisions[place].model_copy(update={"course": other}))
    altered = forged(history.decisions[place], value)
    tampered = replace(history, decisions=changed(history.decisions, place, altered))
    assert not audit(tampered).identical


@pytest.mark.parametrize("strategy", Strategy)
def test_an_alpha_that_was_changed_in_a_report_is_found_out(strategy: Strategy) -> None:
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
