"""The candidates of a run: its arms, and their results so far."""

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
from esper.errors import EsperError
from esper.orchestrator.run import RunContext
from esper.topics.codec import encode
from esper.topics.models import LoadableKernel

MAX_ARMS = 10_000
"""With more arms the state, or a decision that lists all, could exceed the size of a record."""


class TooManyArms(EsperError, ValueError):
    """A run has more arms than its records can hold."""


class Arm(NamedTuple):
    """A (site, blueprint) that can be planted, with its trials and mean reward in this run.

    `embargo_until_seq` is the first report at which the arm may be planted again; `encoded` holds
    the kernel's canonical bytes.
    """

    kernel: LoadableKernel
    encoded: bytes
    pulls: int = 0
    mean: float = 0.0
    embargo_until_seq: int = 0

    @property
    def json(self) -> bytes:
        """The stored bytes of the arm."""
        return b'{"embargo_until_seq":%d,"kernel":%b,"mean":%b,"pulls":%d}' % (
            self.embargo_until_seq,
            self.encoded,
            orjson.dumps(self.mean),
            self.pulls,
        )


@dataclass(frozen=True)
class Arms:
    """All arms in the order of (site, blueprint), as rows and as columns.

    An immutable value; a changed copy shares its unchanged parts with the original.
    """

    rows: tuple[Arm, ...]
    arm_features: ArmFeatures
    arm_stats: ArmStats

    @classmethod
    def of(cls, rows: Sequence[Arm], tracker: PerformanceTracker, run: RunContext) -> "Arms":
        """Return the arms with their columns, and with the tracker's histories of them."""
        kernels = [row.kernel for row in rows]
        embargoes = [row.embargo_until_seq for row in rows]
        arm_features = ArmFeatures.of(
            kernels, embargoes, permanent_codes(run.selection.limits, run.run_config.slots, kernels)
        )
        histories = {
            index: history
            for index, kernel in enumerate(kernels)
            if (history := tracker.of(HistoryKey(kernel.site, None, kernel.blueprint_id)))
            is not None
        }
        memory = run.run_config.memory.arms if run.run_config.memory else ()
        priors = priors_for(kernels, run.signatures, memory, run.selection.priors)
        with_prior = {index: prior for index, prior in enumerate(priors) if prior != NO_PRIOR}
        return cls(tuple(rows), arm_features, ArmStats.of(len(rows), histories, with_prior))

    def __iter__(self) -> Iterator[Arm]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def json(self) -> bytes:
        """The stored bytes of the arms."""
        return b"[%b]" % b",".join(row.json for row in self.rows)

    @cached_property
    def indexes(self) -> Mapping[tuple[str, str], int]:
        """The index of each (site, blueprint_id)."""
        return {
            (row.kernel.site, row.kernel.blueprint_id): index for index, row in enumerate(self.rows)
        }

    def on(self, site: str, kernel_id: str) -> Arm | None:
        """Return the arm of a planted kernel; None where the kernel is not available any more."""
        index = self.arm_features.by_kernel.get((site, kernel_id))
        return None if index is None else self.rows[index]

    def at(self, site: str, blueprint_id: str) -> Arm | None:
        """Return the arm of a blueprint at a site; None where it is not available."""
        index = self.indexes.get((site, blueprint_id))
        return None if index is None else self.rows[index]

    def category(self, site: str, blueprint_id: str) -> str:
        """Return the category of a blueprint at a site; empty where it is not available."""
        arm = self.at(site, blueprint_id)
        return "" if arm is None else arm.kernel.category

    def embargoed(self, names: Iterable[tuple[str, str]], until_seq: int) -> "Arms":
        """Return the arms with an embargo on these (site, kernel_id) until report `until_seq`."""
        indexes = [
            index for name in names if (index := self.arm_features.by_kernel.get(name)) is not None
        ]
        if not indexes:
            return self
        rows = list(self.rows)
        for index in indexes:
            rows[index] = rows[index]._replace(embargo_until_seq=until_seq)
        return replace(
            self, rows=tuple(rows), arm_features=self.arm_features.with_embargo(indexes, until_seq)
        )

    def with_history(self, index: int, history: ArmHistory) -> "Arms":
        """Return the arms with another history of the arm at `index`."""
        rows = list(self.rows)
        rows[index] = rows[index]._replace(pulls=history.pulls, mean=history.mean)
        arm_stats = self.arm_stats.with_history(index, history)
        return replace(self, rows=tuple(rows), arm_stats=arm_stats)

    def with_kernels(
        self, kernels: Sequence[LoadableKernel], tracker: PerformanceTracker, run: RunContext
    ) -> tuple["Arms", PerformanceTracker]:
        """Return the arms with kernels that became loadable, and the tracker for these arms.

        A different kernel under a known (site, blueprint_id) is a new arm without history.

        Raises:
            TooManyArms: the result would have more than `MAX_ARMS` arms.
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
                f"{len(by_name)} arms exceed the limit of {MAX_ARMS}; "
                "grow at fewer sites or offer fewer blueprints"
            )
        return Arms.of([by_name[name] for name in sorted(by_name)], tracker, run), tracker
