"""Decisions list the best candidates and those that they plant, and a digest of the others."""

import hashlib

import pytest

from esper.audit import RunRecords, audit
from esper.orchestrator import LISTED_CANDIDATES
from esper.orchestrator.other_candidates import CANDIDATES_PER_RECORD, RankedCandidates, digest_of
from esper.topics.catalog import ADAPTATION_DECISION, MAX_VALUE_BYTES
from esper.topics.codec import decode, encode
from esper.topics.models import (
    INT64,
    AdaptationDecision,
    Candidate,
    DecisionCandidates,
    Plant,
    PolicySpec,
    SeedReport,
)
from tests.orchestrator.trainer import Trainer, grown_run, kernel, selection

LISTED = LISTED_CANDIDATES


def candidate(number: int) -> Candidate:
    arm = kernel("fc", f"blueprint-{number}")
    return Candidate(
        site=arm.site,
        blueprint_id=arm.blueprint_id,
        kernel_id=arm.kernel_id,
        pulls=1,
        mean=0.5,
        score=1.0 - number / 1000,
    )


RANKED = tuple(candidate(number) for number in range(100))


def plant(number: int) -> Plant:
    planted = RANKED[number]
    return Plant(
        site=planted.site,
        slot=0,
        kernel_id=planted.kernel_id,
        blueprint_id=planted.blueprint_id,
        alpha=1.0,
        ramp_steps=10,
    )


def wide_run(sites: int, blueprints: int, listed: int | None = LISTED) -> Trainer:
    """Return an open run that has decided once, with `blueprints` arms at each site."""
    names = [f"layer{number:04d}" for number in range(sites)]
    trainer = Trainer(
        dict.fromkeys(names, 1), selection=selection(max_on_trial=4), listed_candidates=listed
    )
    trainer.report()
    arms = [kernel(site, f"blueprint-{number}") for site in names for number in range(blueprints)]
    trainer.accept(trainer.report(*arms))
    return trainer


def last_decision(trainer: Trainer) -> AdaptationDecision:
    return decode(AdaptationDecision, trainer.decisions[-1].value)


def events(trainer: Trainer) -> list[DecisionCandidates]:
    return [decode(DecisionCandidates, record.value) for record in trainer.candidates]


# -- which are listed ---------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [None, 100, 200])
def test_few_candidates_are_all_listed(listed: int | None) -> None:
    ranked = RankedCandidates.of(RANKED, (), listed)
    assert ranked == (RANKED, ())
    assert digest_of(ranked.records("run", 1, 0)) is None


def test_the_best_are_listed_in_rank_order() -> None:
    assert RankedCandidates.of(RANKED, (), LISTED) == (RANKED[:16], RANKED[16:])


@pytest.mark.parametrize("planted", [3, 16, 57, 99])
def test_a_planted_candidate_is_listed_whatever_its_rank(planted: int) -> None:
    ranked = RankedCandidates.of(RANKED, (plant(planted),), LISTED)
    expected = RANKED[:16] if planted < 16 else (*RANKED[:16], RANKED[planted])
    assert ranked.listed == expected
    assert ranked.others == tuple(one for one in RANKED if one not in expected)


def test_a_kernel_that_is_planted_at_one_site_is_not_listed_for_another() -> None:
    elsewhere = RANKED[57].model_copy(update={"site": "conv"})
    ranked = RankedCandidates.of((*RANKED, elsewhere), (plant(57),), LISTED)
    assert RANKED[57] in ranked.listed
    assert elsewhere in ranked.others


# -- digest and records -------------------------------------------------------------------------


def test_the_digest_is_of_the_values_of_the_records() -> None:
    """A reader in another language needs the bytes on the topic and SHA-256."""
    trainer = wide_run(sites=10, blueprints=30)
    decision, (event,) = last_decision(trainer), events(trainer)
    value = trainer.candidates[0].value or b""
    assert decision.other_candidates is not None
    assert decision.other_candidates.count == len(event.candidates) == 284
    assert decision.other_candidates.sha256 == hashlib.sha256(value).hexdigest()
    assert event.decision_id == decision.decision_id
    assert (event.seq, event.index) == (decision.seq, decision.index)
    assert (event.part, event.parts) == (0, 1)


def test_listed_and_other_candidates_are_those_of_a_run_that_lists_all() -> None:
    short, long = wide_run(10, 30), wide_run(10, 30, listed=None)
    decision, (event,) = last_decision(short), events(short)
    all_listed = last_decision(long)
    assert long.candidates == []
    assert all_listed.other_candidates is None
    assert len(encode(decision)) < len(encode(all_listed)) / 10
    assert decision.operations == all_listed.operations
    ranked = [*decision.candidates[:LISTED], *event.candidates]
    ranked += decision.candidates[LISTED:]
    by_rank = {one.kernel_id: rank for rank, one in enumerate(all_listed.candidates)}
    assert sorted(ranked, key=lambda one: by_rank[one.kernel_id]) == list(all_listed.candidates)
    assert [by_rank[one.kernel_id] for one in decision.candidates[:LISTED]] == list(range(16))


def test_every_plant_of_a_run_is_listed_by_its_decision() -> None:
    """Attention to a site leads to arms of any rank."""
    run = grown_run(60, selection(attention=PolicySpec(name="random")), listed_candidates=1)
    plants = [
        (decision, operation)
        for decision in (decode(AdaptationDecision, record.value) for record in run.decisions)
        for operation in decision.operations
        if isinstance(operation, Plant)
    ]
    assert len(plants) > 3
    for decision, operation in plants:
        listed = {(one.site, one.kernel_id) for one in decision.candidates}
        assert (operation.site, operation.kernel_id) in listed


def test_the_largest_run_has_its_candidates_in_parts() -> None:
    trainer = wide_run(sites=1250, blueprints=8)
    decision, parts = last_decision(trainer), events(trainer)
    assert len(encode(decision)) < 20_000
    assert [(event.part, event.parts) for event in parts] == [(part, 5) for part in range(5)]
    others = [one for event in parts for one in event.candidates]
    assert decision.other_candidates is not None
    assert decision.other_candidates.count == len(others) == 10_000 - len(decision.candidates)
    names = {(one.site, one.blueprint_id) for one in (*decision.candidates, *others)}
    assert len(names) == 10_000
    joined = b"".join(record.value or b"" for record in trainer.candidates)
    assert decision.other_candidates.sha256 == hashlib.sha256(joined).hexdigest()
    records = [*trainer.reports, *trainer.decisions, *trainer.candidates]
    verdict = audit(RunRecords.of("run", records))
    assert verdict.identical, str(verdict)
    assert verdict.candidate_records == len(trainer.candidates)


def test_a_part_with_the_longest_names_fits_into_a_record() -> None:
    longest = Candidate(
        site="s" * 200,
        blueprint_id="b" * 64,
        kernel_id="0" * 64,
        pulls=INT64 - 1,
        mean=-1.2345678901234567e-300,
        score=-1.2345678901234567e-300,
        excluded="e" * 300,
        constraint="c" * 64,
        prior_weight=-1.2345678901234567e-300,
        prior_mean=-1.2345678901234567e-300,
    )
    event = DecisionCandidates(
        run_id="r" * 64,
        decision_id="0" * 64,
        seq=INT64 - 1,
        index=INT64 - 1,
        part=INT64 - 1,
        parts=INT64 - 1,
        candidates=(longest,) * CANDIDATES_PER_RECORD,
    )
    assert len(encode(event)) < MAX_VALUE_BYTES


# -- earlier runs -------------------------------------------------------------------------------


def test_a_run_that_lists_all_has_the_bytes_of_earlier_versions() -> None:
    trainer = wide_run(2, 3, listed=None)
    for record in (*trainer.reports, *trainer.decisions):
        value = record.value or b""
        assert b"listed_candidates" not in value
        assert b"other_candidates" not in value
    assert b"listed_candidates" not in trainer.fold_state.to_bytes()
    assert trainer.decisions[0].topic == ADAPTATION_DECISION.name


def test_the_number_of_listed_candidates_survives_in_the_state() -> None:
    trainer = wide_run(2, 30)
    opened = decode(SeedReport, trainer.reports[0].value).run_config
    assert opened is not None
    assert opened.listed_candidates == LISTED
    restored = type(trainer.fold_state).from_bytes(trainer.fold_state.to_bytes())
    assert restored.run.run_config.listed_candidates == LISTED
