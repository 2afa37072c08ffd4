"""What the runs of a task family found, kept for runs to come.

Means are weighted by trials. A run first discounts what is known of the signatures that it has
something to say of, as discounted bandits do (Kocsis & Szepesvári, "Discounted UCB", 2006), by run
instead of by trial; then its own trials join in.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from esper.topics.models import RememberedArm

MAX_REMEMBERED: Final = 2_000
"""Arms in a snapshot: as many as a run's opening takes."""

ArmName: TypeAlias = tuple[str, str]
"""The text of a site signature, and a blueprint's id."""


class MemoryUpdate(NamedTuple):
    """What one run found of a blueprint at one of its sites: so many trials, their mean reward."""

    signature: str
    blueprint_id: str
    pulls: float
    mean: float


class ArmRecord(NamedTuple):
    """How many trials an arm counts as, their mean reward in [0, 1], when it was last tried."""

    weight: float
    mean: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How much is kept: each run leaves `discount` of what was known, and no arm more than
    `max_weight` trials; below `min_weight` an arm is forgotten.

    With these, all earlier runs together count at most as `discount` * `max_weight` = 16 trials.
    """

    discount: float = 0.8
    max_weight: float = 20.0
    min_weight: float = 0.1
    max_arms: int = 5_000
    max_runs: int = 1_000


DEFAULT_RETENTION: Final = RetentionPolicy()


@dataclass(frozen=True, slots=True)
class FamilyMemory:
    """What is known of each arm, and the ids of the runs that it is from, the last one last."""

    arms: Mapping[ArmName, ArmRecord] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


def with_run(
    memory: FamilyMemory,
    lessons: Iterable[MemoryUpdate],
    *,
    run_id: str,
    at_ms: int,
    retention: RetentionPolicy = DEFAULT_RETENTION,
) -> FamilyMemory:
    """Return the memory with what a run found, at `at_ms` since 1970; a run counts once.

    Of more than `max_runs` runs the first are forgotten, and would count again. Of more arms than
    `max_arms` those go that were not tried for longest, of these the ones of least weight.

    Raises:
        ValueError: a lesson is of no trials, or its mean is not in [0, 1].
    """
    if run_id in memory.runs:
        return memory
    found = _pooled(lessons)
    arms = _discounted(memory.arms, {signature for signature, _ in found}, retention)
    for name, (pulls, mean) in found.items():
        if (known := arms.get(name)) is not None:
            pulls, mean = _mean([(known.weight, known.mean), (pulls, mean)])
        arms[name] = ArmRecord(
            weight=min(pulls, retention.max_weight),
            mean=mean,
            at_ms=max(at_ms, known.at_ms if known else at_ms),
        )
    runs = (*memory.runs, run_id)[-retention.max_runs :]
    return FamilyMemory(_bounded(arms, retention.max_arms), runs)


def snapshot(memory: FamilyMemory, signatures: Collection[str]) -> tuple[RememberedArm, ...]:
    """Return what is known of sites of these signatures, by name; of too many arms the heaviest."""
    wanted = frozenset(signatures)
    known = [(name, arm) for name, arm in memory.arms.items() if name[0] in wanted]
    heaviest = sorted(known, key=lambda each: (-each[1].weight, each[0]))[:MAX_REMEMBERED]
    return tuple(
        RememberedArm(signature=signature, blueprint_id=blueprint, weight=arm.weight, mean=arm.mean)
        for (signature, blueprint), arm in sorted(heaviest)
    )


def _pooled(lessons: Iterable[MemoryUpdate]) -> dict[ArmName, tuple[float, float]]:
    """Return trials and mean of each arm: sites of one signature teach of the same one."""
    by_name: dict[ArmName, list[tuple[float, float]]] = {}
    for lesson in lessons:
        if not (0 < lesson.pulls < math.inf and 0 <= lesson.mean <= 1):
            raise ValueError(
                f"{lesson.blueprint_id} at {lesson.signature}: {lesson.pulls!r} trials of mean "
                f"{lesson.mean!r} teach nothing; give trials above 0 and a mean in [0, 1]"
            )
        name = lesson.signature, lesson.blueprint_id
        by_name.setdefault(name, []).append((lesson.pulls, lesson.mean))
    return {name: _mean(each) for name, each in by_name.items()}


def _mean(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the weight of weighted means together, and their mean."""
    if len(parts) == 1:
        return parts[0]
    # fsum rounds once, so the order of sites does not matter.
    weight = math.fsum(part for part, _ in parts)
    return weight, math.fsum(part * mean for part, mean in parts) / weight


def _discounted(
    arms: Mapping[ArmName, ArmRecord], signatures: Collection[str], retention: RetentionPolicy
) -> dict[ArmName, ArmRecord]:
    """Return the arms with those at sites of these signatures discounted, or gone."""
    kept = {}
    for name, arm in arms.items():
        if name[0] in signatures:
            arm = arm._replace(weight=arm.weight * retention.discount)
        if arm.weight >= retention.min_weight:
            kept[name] = arm
    return kept


def _bounded(arms: dict[ArmName, ArmRecord], max_arms: int) -> dict[ArmName, ArmRecord]:
    if len(arms) <= max_arms:
        return arms
    latest = sorted(arms, key=lambda name: (-arms[name].at_ms, -arms[name].weight, name))
    return {name: arms[name] for name in latest[:max_arms]}
