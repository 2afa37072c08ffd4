"""Auditions in the fold: rounds, rungs, what passes, what is planted, and when a round begins."""

from collections.abc import Callable, Mapping

import pytest

from esper.orchestrator import FoldState
from esper.topics.models import (
    MAX_AUDITIONED,
    AdaptationDecision,
    Audition,
    AuditionResult,
    Auditions,
    Fossilize,
    LoadableKernel,
    Orchestration,
    Plant,
    Selection,
    SelectionLimits,
)
from tests.orchestrator.test_manual_requests import assert_audited
from tests.orchestrator.trainer import Trainer, kernel

BLUEPRINTS = ("identity", *(f"b{number}" for number in range(11)))
OFFERS = [kernel(site, name) for site in ("conv", "fc") for name in BLUEPRINTS]
SETTINGS = Auditions(rung_steps=(10, 30), kept_share=0.3, finalists=4, again_reports=20)
TRAINED = "a" * 64

Gain = Callable[[LoadableKernel, Audition], AuditionResult]


def result(
    offered: LoadableKernel,
    audition: Audition,
    gain: float | None,
    error: float = 0.01,
    control: float = 0.0,
    slope: float = 0.0,
) -> AuditionResult:
    """Return a result; without a gain one that failed."""
    found: Mapping[str, object] = {"reason": "it diverged"}
    if gain is not None:
        found = {
            "gain": gain,
            "error": error,
            "slope": slope,
            "control_gain": control,
            "trained_sha256": TRAINED,
        }
    return AuditionResult.model_validate(
        {
            "site": offered.site,
            "kernel_id": offered.kernel_id,
            "rung": audition.rung,
            "steps": audition.steps,
            **found,
        }
    )


def gains(worth: Mapping[tuple[str, str], float], **more: float) -> Gain:
    """Return results with these gains by site and blueprint; 0 for other kernels."""

    def gain(offered: LoadableKernel, audition: Audition) -> AuditionResult:
        found = worth.get((offered.site, offered.blueprint_id), 0.0)
        return result(offered, audition, found, **more)

    return gain


class Run:
    """A run with auditions whose results are given, and with given contributions."""

    def __init__(
        self, gain: Gain, settings: Auditions = SETTINGS, contribution: float = 0.5
    ) -> None:
        self.trainer = Trainer(
            {"conv": 2, "fc": 2},
            selection=Selection(
                limits=SelectionLimits(max_on_trial=1, dormant_reports=0),
                trial_reports=2,
                orchestration=Orchestration(plateau_reports=2),
                auditions=settings,
            ),
        )
        self.gain, self.contribution = gain, contribution
        self.loss = 1.0
        self.decisions: list[AdaptationDecision] = []
        self.results: list[AuditionResult] = []
        self.trainer.report(*OFFERS)

    def go(self, reports: int = 1, *arrived: LoadableKernel) -> list[AdaptationDecision]:
        """Make reports with the results asked for before; return their decisions."""
        made: list[AdaptationDecision] = []
        for _ in range(reports):
            measured = dict.fromkeys(self.trainer.seeds, self.contribution)
            made += self.trainer.report(
                *arrived,
                contributions=measured,
                probe_loss=self.loss,
                auditions=self.results,
            )
            arrived = ()
            self.trainer.accept(
                [one for one in made if one.operations and one not in self.decisions]
            )
            self.decisions += [one for one in made if one not in self.decisions]
            self.results = [
                self.gain(offered, audition)
                for one in self.decisions
                if one.seq == self.trainer.seq - 1
                for audition in one.auditions
                for offered in OFFERS
                if offered.site == audition.site and offered.kernel_id in audition.kernel_ids
            ]
        return made

    @property
    def auditions(self) -> list[AdaptationDecision]:
        return [one for one in self.decisions if one.auditions]

    @property
    def plants(self) -> list[Plant]:
        return [
            operation
            for one in self.decisions
            for operation in one.operations
            if isinstance(operation, Plant)
        ]


def ids(decision: AdaptationDecision) -> list[str]:
    return [kernel_id for one in decision.auditions for kernel_id in one.kernel_ids]


def test_the_best_kernel_is_planted_with_its_trained_weights_after_all_rungs() -> None:
    run = Run(gains({("fc", "b3"): 0.8, ("conv", "b1"): 0.4}))
    run.go(12)
    first, second = run.auditions[:2]
    assert len(ids(first)) == len(OFFERS)
    assert {one.snapshot_id for one in first.auditions} == {first.decision_id}
    assert [one.steps for one in first.auditions] == [10, 10]
    assert len(ids(second)) == 8
    assert {one.snapshot_id for one in second.auditions} == {first.decision_id}
    assert {(one.rung, one.steps) for one in second.auditions} == {(1, 30)}
    plant = run.plants[0]
    assert (plant.site, plant.blueprint_id, plant.trained_sha256) == ("fc", "b3", TRAINED)
    assert plant.alpha == 1.0


def test_nothing_is_planted_before_its_audition() -> None:
    run = Run(gains({("fc", "b3"): 0.8}))
    while not run.plants:
        run.go()
    before = [one for one in run.decisions if not one.operations]
    assert before
    found = {candidate.constraint for one in before for candidate in one.candidates}
    assert found == {"not-auditioned"}


def test_a_round_waits_for_the_plateau_and_for_kernels_that_still_arrive() -> None:
    run = Run(gains({}))
    for _ in range(10):
        run.loss *= 0.8
        run.go()
    assert run.auditions == []
    run.go(3, kernel("fc", "late"))
    assert run.auditions == []
    run.go(4)
    assert len(run.auditions) >= 1


@pytest.mark.parametrize(
    "gain",
    [
        gains({("fc", "b3"): 0.019}),
        gains({("fc", "b3"): 0.3}, control=0.29),
        gains({("fc", "identity"): 5.0}),
        lambda offered, audition: result(offered, audition, None),
    ],
    ids=["within its error", "no better than the control", "a control", "all fail"],
)
def test_nothing_is_planted_when_nothing_passes_and_the_reason_says_so(gain: Gain) -> None:
    run = Run(gain)
    run.go(18)
    assert run.plants == []
    assert any("no kernel passed its audition" in one.reason for one in run.decisions)


def test_a_fruitless_round_is_repeated_only_after_some_reports() -> None:
    run = Run(gains({}))
    run.go(20)
    rounds = [one for one in run.auditions if one.auditions[0].rung == 0]
    assert len(rounds) == 1
    run.go(10)
    last_rung, again = run.auditions[1:3]
    assert [one.auditions[0].rung for one in (last_rung, again)] == [1, 0]
    assert again.seq - last_rung.seq == SETTINGS.again_reports
    run.go(50)
    _, last_rung, later = run.auditions[2:5]
    assert later.seq - last_rung.seq == 2 * SETTINGS.again_reports


def test_the_next_best_follows_a_kernel_that_failed_its_trial_up_to_a_limit() -> None:
    worth = {("fc", f"b{number}"): 0.9 - number / 10 for number in range(6)}
    run = Run(gains(worth), SETTINGS.model_copy(update={"candidates": 3}), contribution=-0.5)
    run.go(24)
    assert [plant.blueprint_id for plant in run.plants] == ["b0", "b1", "b2"]


def test_a_kept_kernel_ends_the_round_because_the_host_has_changed() -> None:
    run = Run(gains({("fc", "b3"): 0.8, ("fc", "b4"): 0.7}))
    run.go(10)
    kept = [one for one in run.decisions if any(isinstance(op, Fossilize) for op in one.operations)]
    assert len(kept) == 1
    assert [plant.blueprint_id for plant in run.plants] == ["b3"]
    run.go(8)
    rounds = [one for one in run.auditions if one.auditions[0].rung == 0]
    assert len(rounds) == 2
    assert rounds[1].seq > kept[0].seq


def test_a_slow_learner_goes_on_by_its_slope() -> None:
    def gain(offered: LoadableKernel, audition: Audition) -> AuditionResult:
        if offered.blueprint_id == "b10":
            late = audition.rung == 1
            return result(offered, audition, 0.9 if late else -0.5, slope=0.1)
        return result(offered, audition, 0.1)

    run = Run(gain)
    run.go(12)
    slow = {offered.kernel_id for offered in OFFERS if offered.blueprint_id == "b10"}
    assert slow & set(ids(run.auditions[1]))
    assert run.plants[0].blueprint_id == "b10"


def test_results_that_never_come_end_their_rung_at_its_limit() -> None:
    settings = SETTINGS.model_copy(update={"timeout_reports": 6})
    run = Run(gains({("fc", "b3"): 0.8}), settings)
    while not run.auditions:
        run.go()
    run.results = [one for one in run.results if one.site == "fc"]
    run.go(5)
    assert len(run.auditions) == 1
    run.go(2)
    assert len(run.auditions) == 2
    assert {one.site for one in run.auditions[1].auditions} == {"fc"}


def test_results_of_another_rung_and_of_kernels_not_asked_for_change_nothing() -> None:
    run = Run(gains({("fc", "b3"): 0.8}))
    while not run.auditions:
        run.go()
    audition = run.auditions[0].auditions[0].model_copy(update={"rung": 1, "steps": 30})
    asked, run.results = run.results, [result(OFFERS[0], audition, 99.0)]
    run.go()
    assert run.trainer.fold_state.audition_round is not None
    assert run.trainer.fold_state.audition_round.results == ()
    run.results = asked
    run.go(6)
    assert run.plants[0].blueprint_id == "b3"


def test_the_state_survives_its_bytes_and_the_audit_is_identical() -> None:
    run = Run(gains({("fc", "b3"): 0.8, ("conv", "b1"): 0.4}))
    for _ in range(14):
        run.go()
        state = run.trainer.fold_state
        assert FoldState.from_bytes(state.to_bytes()) == state
    assert_audited(run.trainer)


def test_the_audit_notices_a_changed_gain() -> None:
    run = Run(gains({("fc", "b3"): 0.8}))
    run.go(12)
    before = run.trainer.fold_state.sha256()
    other = Run(gains({("fc", "b3"): 0.81}))
    other.go(12)
    assert other.trainer.fold_state.sha256() != before


def test_without_an_audition_worker_kernels_are_tried_in_the_network() -> None:
    settings = SETTINGS.model_copy(update={"timeout_reports": 6})
    run = Run(gains({}), settings)
    while not run.auditions:
        run.go()
    for _ in range(8):
        run.results = []
        run.go()
    assert len(run.plants) == 1
    assert run.plants[0].trained_sha256 is None


def test_a_round_that_cannot_hold_all_kernels_takes_them_from_every_site() -> None:
    many = [kernel("conv", f"c{number}") for number in range(2500)]
    run = Run(gains({}))
    run.go(1, *many)
    run.go(8)
    asked = run.auditions[0].auditions
    assert sum(len(one.kernel_ids) for one in asked) == MAX_AUDITIONED
    assert {one.site: len(one.kernel_ids) for one in asked}["fc"] == len(BLUEPRINTS)
