"""The blueprints that get a kernel: the same rules for the planner and for lockstep runs.

A record of `blueprint-submitted` adds a blueprint, replaces the one of the same id, or withdraws
it. At the sites of one kind, a run has a stated number of places, and a stated part of them for
blueprints of one publisher. Blueprints take places in the order of their submission, so that a
later one never displaces an earlier one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from esper.blueprint.identity import request_for
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.blueprint.validation import check
from esper.topics.codec import Headers, Undecodable, decode
from esper.topics.models import (
    Blueprint,
    KernelRequested,
    SiteKind,
    SiteSignature,
    TrainingRun,
)

MAX_BLUEPRINTS: Final = 4096
"""Blueprints of one publisher that stand at a time."""

ANONYMOUS: Final = "anonymous"
"""The publisher of all records without the CloudEvents header `ce_source`."""

MAX_PUBLISHER_CHARS: Final = 200

_ID: Final = re.compile(rb"[a-z0-9][a-z0-9._-]{0,63}")


class Submission(NamedTuple):
    """A blueprint and the name of its publisher."""

    blueprint: Blueprint
    publisher: str


class PlanLimits(NamedTuple):
    """Places of a run at the sites of one kind, in all and for one publisher."""

    kernels: int
    kernels_of_publisher: int


def limits_of(run: TrainingRun) -> PlanLimits:
    """Return the limits of a run."""
    return PlanLimits(run.kernels_per_site, run.kernels_per_publisher)


def publisher_of(headers: Headers) -> str:
    """Return the publisher that a record's headers name, or `ANONYMOUS`."""
    for name, value in headers:
        if name == "ce_source" and value:
            return value.decode("utf-8", "replace")[:MAX_PUBLISHER_CHARS]
    return ANONYMOUS


def withdrawn_id(key: bytes | None, value: bytes | None) -> str | None:
    """Return the blueprint id that a tombstone withdraws; None for any other record."""
    if value is None and key is not None and _ID.fullmatch(key):
        return key.decode()
    return None


class Submissions:
    """The blueprints that stand, by id and in the order of their first submission."""

    def __init__(self) -> None:
        self._standing: dict[str, Submission] = {}
        self._count: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Submission]:
        return iter(self._standing.values())

    def __len__(self) -> int:
        return len(self._standing)

    def get(self, blueprint_id: str) -> Submission | None:
        """Return the standing submission of an id."""
        return self._standing.get(blueprint_id)

    def is_over_quota(self, blueprint_id: str, publisher: str) -> bool:
        """Return whether a publisher has too many blueprints to submit one of this id."""
        known = self._standing.get(blueprint_id)
        if known is not None and known.publisher == publisher:
            return False
        return self._count[publisher] >= MAX_BLUEPRINTS

    def require_quota(self, blueprint_id: str, publisher: str) -> None:
        """Check that a publisher may submit a blueprint of this id.

        Raises:
            BlueprintRejected: too many of the publisher's blueprints stand.
        """
        if self.is_over_quota(blueprint_id, publisher):
            raise BlueprintRejected(
                RejectionCode.OVER_QUOTA,
                f"publisher {publisher!r} has {MAX_BLUEPRINTS} blueprints; "
                "withdraw some with `esper blueprint withdraw`",
            )

    def submit(self, blueprint: Blueprint, publisher: str) -> None:
        """Add a valid blueprint, or replace the one of its id, which keeps its place.

        Raises:
            BlueprintRejected: see `require_quota`.
        """
        self.require_quota(blueprint.blueprint_id, publisher)
        known = self._standing.get(blueprint.blueprint_id)
        if known is not None:
            self._count[known.publisher] -= 1
        self._count[publisher] += 1
        self._standing[blueprint.blueprint_id] = Submission(blueprint, publisher)

    def withdraw(self, blueprint_id: str) -> bool:
        """Remove a blueprint; return whether it stood."""
        known = self._standing.pop(blueprint_id, None)
        if known is not None:
            self._count[known.publisher] -= 1
        return known is not None

    def read(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Apply a record of the topic; one that is invalid or over a quota changes nothing."""
        if (withdrawn := withdrawn_id(key, value)) is not None:
            self.withdraw(withdrawn)
            return
        try:
            blueprint = decode(Blueprint, value)
            check(blueprint)
            self.submit(blueprint, publisher_of(headers))
        except (Undecodable, BlueprintRejected):
            return


def planned(
    submissions: Iterable[Submission], kind: SiteKind, limits: PlanLimits
) -> dict[str, Submission]:
    """Return the submissions that have a place at sites of a kind, by blueprint id."""
    placed: dict[str, Submission] = {}
    count: Counter[str] = Counter()
    for submission in submissions:
        if len(placed) >= limits.kernels:
            break
        publisher = submission.publisher
        if kind in submission.blueprint.kinds and count[publisher] < limits.kernels_of_publisher:
            count[publisher] += 1
            placed[submission.blueprint.blueprint_id] = submission
    return placed


def signatures_of(run: TrainingRun) -> list[SiteSignature]:
    """Return the distinct signatures of a run's sites."""
    return list(dict.fromkeys(run.sites.values()))


def requests_for(submissions: Iterable[Submission], run: TrainingRun) -> Iterator[KernelRequested]:
    """Yield one request for each kernel that is planned for a run."""
    standing = list(submissions)
    limits = limits_of(run)
    places = {kind: planned(standing, kind, limits) for kind in SiteKind}
    for signature in signatures_of(run):
        for submission in places[signature.kind].values():
            yield request_for(submission.blueprint, signature)
