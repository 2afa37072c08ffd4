"""The plan: the kernels that open runs want of the blueprints that stand. No effects."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from esper.blueprint import (
    PlanLimits,
    Submission,
    Submissions,
    limits_of,
    planned,
    request_for,
    signatures_of,
)
from esper.topics.models import KernelRequested, SiteKind, SiteSignature, TrainingRun

QUIET_MS: Final = 30 * 60 * 1000
"""A run that has not announced itself for so long waits for kernels after all others."""


Where = tuple[SiteKind, PlanLimits]
"""Sites that have the same places: those of one kind, in runs of equal limits."""


class Wanted(NamedTuple):
    """A kernel to compile: a blueprint by its id, at a signature."""

    blueprint_id: str
    signature: SiteSignature


class OpenRun(NamedTuple):
    """A run, and when it was last announced, in milliseconds since the epoch."""

    run: TrainingRun
    seen_ms: int

    def urgency(self, now_ms: float) -> int:
        """Return 0 for a run that waits, 1 for one that reports, 2 for a quiet one."""
        if self.run.lockstep:
            return 0
        return 1 if now_ms - self.seen_ms <= QUIET_MS else 2


class Plan:
    """Standing blueprints, open runs, and the places that blueprints have in runs."""

    def __init__(self) -> None:
        self.submissions = Submissions()
        self.runs: dict[str, OpenRun] = {}
        self.withdrawn: set[str] = set()
        self._runs_at: dict[SiteSignature, set[str]] = {}
        self._places: dict[Where, dict[str, Submission]] = {}
        self._where: dict[Where, str] | None = None

    def submit(self, blueprint: Submission) -> None:
        """Add or replace a blueprint.

        Raises:
            BlueprintRejected: the publisher has too many.
        """
        self.submissions.submit(blueprint.blueprint, blueprint.publisher)
        self.withdrawn.discard(blueprint.blueprint.blueprint_id)
        self._places.clear()

    def withdraw(self, blueprint_id: str) -> None:
        """Remove a blueprint."""
        self.submissions.withdraw(blueprint_id)
        self.withdrawn.add(blueprint_id)
        self._places.clear()

    def open(self, opened: OpenRun) -> bool:
        """Add a run, or note that it was announced again; return whether it has changed."""
        before = self.runs.get(opened.run.run_id)
        if before is not None and before.run != opened.run:
            self.close(opened.run.run_id)
        self.runs[opened.run.run_id] = opened
        self._where = None
        for signature in signatures_of(opened.run):
            self._runs_at.setdefault(signature, set()).add(opened.run.run_id)
        return before is None or before.run != opened.run

    def close(self, run_id: str) -> None:
        """Remove a run."""
        if (closed := self.runs.pop(run_id, None)) is None:
            return
        self._where = None
        for signature in signatures_of(closed.run):
            runs = self._runs_at[signature]
            runs.discard(run_id)
            if not runs:
                del self._runs_at[signature]

    def expired(self, before_ms: float) -> list[str]:
        """Return the runs that were last announced before a time."""
        return [run_id for run_id, opened in self.runs.items() if opened.seen_ms < before_ms]

    def wanted_by(self, opened: OpenRun) -> Iterator[Wanted]:
        """Yield the kernels that a run wants."""
        limits = limits_of(opened.run)
        for signature in signatures_of(opened.run):
            for blueprint_id in self._placed(signature.kind, limits):
                yield Wanted(blueprint_id, signature)

    def wanted_of(self, blueprint_ids: Iterable[str]) -> Iterator[Wanted]:
        """Yield the kernels of some blueprints that open runs want."""
        chosen = list(blueprint_ids)
        for signature in self._runs_at:
            for blueprint_id in chosen:
                wanted = Wanted(blueprint_id, signature)
                if any(self._has_place(wanted, run_id) for run_id in self._runs_at[signature]):
                    yield wanted

    def placed(self) -> set[tuple[Where, str]]:
        """Return the places that blueprints have in open runs."""
        return {(where, name) for where in self._open_sites() for name in self._placed(*where)}

    def deferred_by(self, blueprint_id: str) -> str | None:
        """Return an open run that has sites of the blueprint's kinds and no place for it."""
        submission = self.submissions.get(blueprint_id)
        if submission is None:
            return None
        for (kind, limits), run_id in self._open_sites().items():
            if kind in submission.blueprint.kinds and blueprint_id not in self._placed(
                kind, limits
            ):
                return run_id
        return None

    def without_place(self, run: TrainingRun) -> int:
        """Return how many blueprints have sites of their kinds in a run and a place at none."""
        kinds = {signature.kind for signature in signatures_of(run)}
        placed = {name for kind in kinds for name in self._placed(kind, limits_of(run))}
        fitting = (one for one in self.submissions if kinds.intersection(one.blueprint.kinds))
        return sum(one.blueprint.blueprint_id not in placed for one in fitting)

    def urgency(self, wanted: Wanted, now_ms: float) -> int:
        """Return the urgency of a kernel: that of the most urgent run that wants it."""
        return min(
            self.runs[run_id].urgency(now_ms)
            for run_id in self._runs_at[wanted.signature]
            if self._has_place(wanted, run_id)
        )

    def publisher(self, wanted: Wanted) -> str:
        """Return the publisher of a wanted kernel's blueprint."""
        submission = self.submissions.get(wanted.blueprint_id)
        return "" if submission is None else submission.publisher

    def request(self, wanted: Wanted) -> KernelRequested | None:
        """Return the request for a kernel; None if no open run wants it any more."""
        submission = self.submissions.get(wanted.blueprint_id)
        runs = self._runs_at.get(wanted.signature, set())
        if submission is None or not any(self._has_place(wanted, run_id) for run_id in runs):
            return None
        return request_for(submission.blueprint, wanted.signature)

    def _open_sites(self) -> dict[Where, str]:
        """Return the sites of open runs that differ in their places, each with one of its runs."""
        if self._where is None:
            self._where = {
                (signature.kind, limits_of(opened.run)): run_id
                for run_id, opened in self.runs.items()
                for signature in signatures_of(opened.run)
            }
        return self._where

    def _has_place(self, wanted: Wanted, run_id: str) -> bool:
        limits = limits_of(self.runs[run_id].run)
        return wanted.blueprint_id in self._placed(wanted.signature.kind, limits)

    def _placed(self, kind: SiteKind, limits: PlanLimits) -> dict[str, Submission]:
        if (kind, limits) not in self._places:
            self._places[kind, limits] = planned(self.submissions, kind, limits)
        return self._places[kind, limits]
