"""The memory of a task family: results of earlier runs that become priors of later runs.

Means are weighted by trials. A finished run first discounts the arms at the signatures that it
tried, as in Kocsis, Szepesvári, "Discounted UCB" (2006), by run instead of by trial; then it adds
its own trials.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from esper.topics.models import RememberedArm

MAX_REMEMBERED: Final = 2_000
"""The most arms in a snapshot, which is the limit of a run_config."""

ArmName: TypeAlias = tuple[str, str]
"""(site signature as text, blueprint_id)."""


class MemoryUpdate(NamedTuple):
    """The trials of a blueprint at one site of a finished run: number and mean reward."""

    signature: str
    blueprint_id: str
    pulls: float
    mean: float


class ArmRecord(NamedTuple):
    """The remembered trials of an arm: weight, mean reward in [0, 1], time of the last trial."""

    weight: float
    mean: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Limits of a family's memory: each run multiplies weights by `discount`, a weight is capped at
    `max_weight` trials, and an arm below `min_weight` is forgotten.

    By default all earlier runs together count as at most `discount` * `max_weight` = 16 trials.
    """

    discount: float = 0.8
    max_weight: float = 20.0
    min_weight: float = 0.1
    max_arms: int = 5_000
    max_runs: int = 1_000


DEFAULT_RETENTION: Final = RetentionPolicy()


@dataclass(frozen=True, slots=True)
class FamilyMemory:
    """The remembered arms, and the ids of the runs behind them, the newest last."""

    arms: Mapping[ArmName, ArmRecord] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


def with_run(
    memory: FamilyMemory,
    updates: Iterable[MemoryUpdate],
    *,
    run_id: str,
    at_ms: int,
    retention: RetentionPolicy = DEFAULT_RETENTION,
) -> FamilyMemory:
    """Return the memory with the updates of a run that finished at `at_ms` since 1970.

    A run counts once. Beyond `max_runs` runs the oldest ids are dropped, and such a run would count
    again. Beyond `max_arms` arms the least recently tried are dropped, of these the lightest first.

    Raises:
        ValueError: an update has no trials, or its mean is not in [0, 1].
    """
    if run_id in memory.runs:
        return memory
    found = _pooled(updates)
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
    """Return the arms at these signatures by name, at most the heaviest `MAX_REMEMBERED`."""
    wanted = frozenset(signatures)
    known = [(name, arm) for name, arm in memory.arms.items() if name[0] in wanted]
    heaviest = sorted(known, key=lambda item: (-item[1].weight, item[0]))[:MAX_REMEMBERED]
    return tuple(
        RememberedArm(signature=signature, blueprint_id=blueprint, weight=arm.weight, mean=arm.mean)
        for (signature, blueprint), arm in sorted(heaviest)
    )


def _pooled(updates: Iterable[MemoryUpdate]) -> dict[ArmName, tuple[float, float]]:
    """Return trials and mean of each arm, pooled over sites with the same signature."""
    by_name: dict[ArmName, list[tuple[float, float]]] = {}
    for update in updates:
        if not (0 < update.pulls < math.inf and 0 <= update.mean <= 1):
            raise ValueError(
                f"{update.blueprint_id} at {update.signature}: {update.pulls!r} trials of mean "
                f"{update.mean!r} are invalid; give trials above 0 and a mean in [0, 1]"
            )
        name = update.signature, update.blueprint_id
        by_name.setdefault(name, []).append((update.pulls, update.mean))
    return {name: _mean(parts) for name, parts in by_name.items()}


def _mean(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the total weight of (weight, mean) pairs, and their weighted mean."""
    if len(parts) == 1:
        return parts[0]
    # fsum rounds once, so the order of sites does not matter.
    weight = math.fsum(part for part, _ in parts)
    return weight, math.fsum(part * mean for part, mean in parts) / weight


def _discounted(
    arms: Mapping[ArmName, ArmRecord], signatures: Collection[str], retention: RetentionPolicy
) -> dict[ArmName, ArmRecord]:
    """Return the arms, discounted at these signatures, without those below `min_weight`."""
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
