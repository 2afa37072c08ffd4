"""The arms of a run: kernels on offer at sites, and how each has done."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import orjson

from esper.bandit import (
    NO_PRIOR,
    ArmFeatures,
    ArmHistory,
    ArmStats,
    HistoryKey,
    PerformanceTracker,
    permanent_codes,
    priors_for,
)
from esper.orchestrator.run import RunContext
from esper.topics.codec import encode
from esper.topics.models import LoadableKernel

MAX_ARMS = 10_000
"""With more, a decision that lists them all could exceed what a record may hold."""


class TooManyArms(ValueError):
    """A run offers more than a decision could list."""


class Arm(NamedTuple):
    """A (site, blueprint) that can be planted, and how it has done here.

    `embargo_until_seq` is the first report at which the arm may be planted again; `encoded` are the
    kernel's canonical bytes.
    """

    kernel: LoadableKernel
    encoded: bytes
    pulls: int = 0
    mean: float = 0.0
    embargo_until_seq: int = 0

    @property
    def json(self) -> bytes:
        """The arm as it is stored."""
        return b'{"embargo_until_seq":%d,"kernel":%b,"mean":%b,"pulls":%d}' % (
            self.embargo_until_seq,
            self.encoded,
            orjson.dumps(self.mean),
            self.pulls,
        )


@dataclass(frozen=True)
class Arms:
    """All arms in the order of (site, blueprint), also in columns; a value that shares what did not
    change with the one it came from."""

    rows: tuple[Arm, ...]
    arm_features: ArmFeatures
    arm_stats: ArmStats

    @classmethod
    def of(cls, rows: Sequence[Arm], tracker: PerformanceTracker, run: RunContext) -> "Arms":
        """Return the arms with their columns; what the tracker knows of them counts."""
        kernels = [row.kernel for row in rows]
        embargoes = [row.embargo_until_seq for row in rows]
        arm_features = ArmFeatures.of(
            kernels, embargoes, permanent_codes(run.selection.limits, run.run_config.slots, kernels)
        )
        histories = {
            place: history
            for place, kernel in enumerate(kernels)
            if (history := tracker.of(HistoryKey(kernel.site, None, kernel.blueprint_id)))
            is not None
        }
        memory = run.run_config.memory.arms if run.run_config.memory else ()
        priors = priors_for(kernels, run.signatures, memory, run.selection.priors)
        believed = {place: prior for place, prior in enumerate(priors) if prior != NO_PRIOR}
        return cls(tuple(rows), arm_features, ArmStats.of(len(rows), histories, believed))

    def __iter__(self) -> Iterator[Arm]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def json(self) -> bytes:
        """The arms as they are stored."""
        return b"[%b]" % b",".join(row.json for row in self.rows)

    @cached_property
    def places(self) -> Mapping[tuple[str, str], int]:
        """Where each (site, blueprint) stands."""
        return {
            (row.kernel.site, row.kernel.blueprint_id): place for place, row in enumerate(self.rows)
        }

    def on(self, site: str, kernel_id: str) -> Arm | None:
        """The arm that a planted kernel belongs to, if it is still offered."""
        place = self.arm_features.by_kernel.get((site, kernel_id))
        return None if place is None else self.rows[place]

    def at(self, site: str, blueprint_id: str) -> Arm | None:
        """The arm of a blueprint at a site, if it is offered."""
        place = self.places.get((site, blueprint_id))
        return None if place is None else self.rows[place]

    def category(self, site: str, blueprint_id: str) -> str:
        """The category of a blueprint at a site; empty where it is not offered."""
        arm = self.at(site, blueprint_id)
        return "" if arm is None else arm.kernel.category

    def embargoed(self, names: Iterable[tuple[str, str]], until_seq: int) -> "Arms":
        """Return the arms of which some, by site and kernel, are left alone until a report."""
        places = [
            place for name in names if (place := self.arm_features.by_kernel.get(name)) is not None
        ]
        if not places:
            return self
        rows = list(self.rows)
        for place in places:
            rows[place] = rows[place]._replace(embargo_until_seq=until_seq)
        return replace(
            self, rows=tuple(rows), arm_features=self.arm_features.with_embargo(places, until_seq)
        )

    def with_history(self, place: int, history: ArmHistory) -> "Arms":
        """Return the arms after one more trial of one of them."""
        rows = list(self.rows)
        rows[place] = rows[place]._replace(pulls=history.pulls, mean=history.mean)
        arm_stats = self.arm_stats.with_history(place, history)
        return replace(self, rows=tuple(rows), arm_stats=arm_stats)

    def with_kernels(
        self, kernels: Sequence[LoadableKernel], tracker: PerformanceTracker, run: RunContext
    ) -> tuple["Arms", PerformanceTracker]:
        """Return the arms with kernels that became loadable, and what is still known of them.

        Another network under a known name is a new arm: what was learnt of the old does not count.

        Raises:
            TooManyArms: there would be more than `MAX_ARMS`.
        """
        by_name = {(row.kernel.site, row.kernel.blueprint_id): row for row in self.rows}
        for kernel in kernels:
            name = (kernel.site, kernel.blueprint_id)
            known = by_name.get(name)
            if known is not None and known.kernel == kernel:
                continue
            if known is not None:
                tracker = tracker.without(*name)
            by_name[name] = Arm(kernel, encode(kernel))
        if len(by_name) > MAX_ARMS:
            raise TooManyArms(
                f"{len(by_name)} arms are on offer and {MAX_ARMS} is the most; "
                "grow at fewer sites or offer fewer blueprints"
            )
        return Arms.of([by_name[name] for name in sorted(by_name)], tracker, run), tracker
