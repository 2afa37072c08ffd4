"""A committed real run under every policy: all its decisions are derived again."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.audit import audit, read_history
from esper.bandit import POLICIES
from esper.topics.codec import decode, encode
from esper.topics.models import AdaptationDecision, SeedReport
from tests.audit.tampering import changed, forged

FOLDER = Path(__file__).parent / "histories" / "policies"


def test_every_policy_has_a_history() -> None:
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == set(POLICIES)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_history_of_a_policy_is_identical_and_has_finished_trials(name: str) -> None:
    history = read_history(FOLDER / f"{name}.jsonl")
    result = audit(history)
    assert result.identical, str(result)
    assert result.closed
    run_config = decode(SeedReport, history.reports[0].value).run_config
    decisions = [decode(AdaptationDecision, record.value) for record in history.decisions]
    assert run_config is not None
    assert run_config.policy.name == name
    assert run_config.selection is not None
    assert any(candidate.pulls for decision in decisions for candidate in decision.candidates)
    assert any(seed.pulls for decision in decisions for seed in decision.seeds)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_changed_contribution_is_found_under_every_policy(name: str) -> None:
    """The digests in the records are forged to match."""
    history = read_history(FOLDER / f"{name}.jsonl")
    reports = [decode(SeedReport, record.value) for record in history.reports]
    measured = next(
        place
        for place, report in enumerate(reports)
        if any(seed.contribution for seed in report.seeds)
    )
    seeds = tuple(
        seed.model_copy(update={"contribution": (seed.contribution or 0.0) + 0.5})
        for seed in reports[measured].seeds
    )
    value = encode(reports[measured].model_copy(update={"seeds": seeds}))
    altered = forged(history.reports[measured], value)
    tampered = replace(history, reports=changed(history.reports, measured, altered))
    assert not audit(tampered).identical
