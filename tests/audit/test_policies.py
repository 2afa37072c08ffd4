"""A run under every policy, committed or simulated: the audit derives all its decisions again."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.audit import RunRecords, audit, read_history
from esper.bandit import POLICIES, policy_for
from esper.topics.codec import decode, encode
from esper.topics.models import AdaptationDecision, PolicySpec, SeedReport
from tests.audit.tampering import changed, forged
from tests.orchestrator.trainer import grown_run, selection

FOLDER = Path(__file__).parent / "histories" / "policies"


RECORDED = {file.stem for file in FOLDER.glob("*.jsonl")}


def history_of(name: str) -> RunRecords:
    """Return the committed real run of a policy, or a simulated run if none is committed."""
    if name in RECORDED:
        return read_history(FOLDER / f"{name}.jsonl")
    spec = PolicySpec(name=name)
    attention = PolicySpec() if policy_for(spec).contextual else spec
    run = grown_run(selection=selection(attention=attention), policy=spec)
    return RunRecords(run.run_id, tuple(run.reports), tuple(run.decisions))


def test_every_committed_history_is_of_a_policy() -> None:
    assert POLICIES.keys() >= RECORDED


@pytest.mark.parametrize("name", ["thompson-beta", "linear-thompson"])
def test_a_policy_without_a_committed_history_gets_a_simulated_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "RECORDED", set())
    test_the_history_of_a_policy_is_identical_and_has_finished_trials(name)
    test_a_changed_contribution_is_found_under_every_policy(name)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_history_of_a_policy_is_identical_and_has_finished_trials(name: str) -> None:
    history = history_of(name)
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
    history = history_of(name)
    reports = [decode(SeedReport, record.value) for record in history.reports]
    measured = next(
        index
        for index, report in enumerate(reports)
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
