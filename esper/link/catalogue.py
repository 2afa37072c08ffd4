"""The kernels that a lockstep run begins with: those of the blueprints published when it opens.

The blueprints on the topic and the limits of the run determine the set. The catalogue waits until
each kernel is offered or cannot be; blueprints published later are for later runs. A blueprint that
is withdrawn or replaced before its kernel is offered is left out.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from esper.blueprint import (
    BlueprintRejected,
    Submissions,
    check,
    kernel_id,
    requests_for,
    withdrawn_id,
)
from esper.link.frames import Frame, Kind
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import Blueprint, KernelReady, KernelRequested, TrainingRun

MAX_NAMED: Final = 3
"""How many missing kernels an error message names."""


class Missing(NamedTuple):
    """`kernels` of the `of` kernels that a run begins with are missing; `first` names the first."""

    kernels: int
    of: int
    first: tuple[str, ...]


def expected_kernels(records: Iterable[Record], run: TrainingRun) -> dict[str, str]:
    """Return the kernels that the planner requests for a run: a printable name by kernel id.

    The planner applies the same rules to the same records.
    """
    submissions = Submissions()
    for record in records:
        submissions.read(record.key, record.value, record.headers)
    return {request.kernel_id: _name(request) for request in requests_for(submissions, run)}


def superseded_kernels(record: Record, expected: Mapping[str, str], run: TrainingRun) -> set[str]:
    """Return the expected kernels whose blueprint a later record withdraws or replaces."""
    blueprint_id, kept = withdrawn_id(record.key, record.value), set[str]()
    if blueprint_id is None:
        try:
            blueprint = decode(Blueprint, record.value)
            check(blueprint)
        except (Undecodable, BlueprintRejected):
            return set()
        blueprint_id = blueprint.blueprint_id
        kept = {kernel_id(blueprint, signature) for signature in run.sites.values()}
    return {
        known for known, name in expected.items() if name.partition(" ")[0] == blueprint_id
    } - kept


def _name(request: KernelRequested) -> str:
    signature = request.site_signature
    return f"{request.blueprint.blueprint_id} at {signature.kind}:{'x'.join(map(str, signature.h))}"


@dataclass(slots=True)
class _Expected:
    """The state of a kernel that is neither offered nor missing for good."""

    verifying: int = 0
    answered: bool = False
    refusal: str | None = None


class Catalogue:
    """The kernels that a lockstep run waits for. Methods may be called from any thread.

    A kernel is settled when one of its announcements is verified, or when the compile workers have
    answered this run and no announcement can be loaded. An announcement made for an earlier run
    settles nothing if it is refused: the answer to this run may replace it.
    """

    def __init__(
        self,
        expected: Mapping[str, str],
        put: Callable[[Frame], None],
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`put` receives the frames for offered, refused and missing kernels.

        `on_settled` is called once, when no kernel is waited for any more.
        """
        self._names = dict(expected)
        self._unsettled = {kernel_id: _Expected() for kernel_id in expected}
        self._put = put
        self._on_settled = on_settled
        self._begun = self._settled = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start to send `MISSING` frames: all earlier announcements have been seen."""
        with self._lock:
            self._begun = True
            for kernel_id in list(self._unsettled):
                self._settle_if_answered(kernel_id)
            self._send_missing()

    def announced(self, kernel_id: str, *, earlier: bool = False) -> bool:
        """Count an announcement; return whether it must be verified.

        `earlier` announcements were made before this run opened.
        """
        with self._lock:
            if (expected := self._unsettled.get(kernel_id)) is None:
                return False
            expected.verifying += 1
            expected.answered |= not earlier
            return True

    def rejected(self, kernel_id: str) -> None:
        """Handle the rejection of a kernel by the compile workers."""
        with self._lock:
            if (expected := self._unsettled.get(kernel_id)) is not None:
                expected.answered = True
                self._settle_if_answered(kernel_id)

    def superseded(self, kernel_ids: Collection[str]) -> None:
        """Do not wait for kernels that no compile worker will be asked for any more."""
        with self._lock:
            for kernel_id in kernel_ids:
                if (expected := self._unsettled.get(kernel_id)) is not None:
                    expected.answered = True
                    expected.refusal = expected.refusal or "its blueprint was withdrawn or replaced"
                    self._settle_if_answered(kernel_id)

    def verified(self, ready: KernelReady) -> None:
        """Offer a kernel, once."""
        with self._lock:
            if ready.kernel_id in self._unsettled:
                self._put(Frame(Kind.KERNEL_VERIFIED, {}, encode(ready)))
                self._settle(ready.kernel_id)

    def refused(self, kernel_id: str, reason: str) -> None:
        """Handle an announced kernel that cannot be loaded."""
        with self._lock:
            if (expected := self._unsettled.get(kernel_id)) is not None:
                expected.verifying -= 1
                expected.refusal = reason
                self._settle_if_answered(kernel_id)

    def _settle_if_answered(self, kernel_id: str) -> None:
        expected = self._unsettled[kernel_id]
        if not self._begun or not expected.answered or expected.verifying:
            return
        if expected.refusal is not None:
            head = {"kernel_id": kernel_id, "reason": expected.refusal}
            self._put(Frame(Kind.KERNEL_REFUSED, head))
        self._settle(kernel_id)

    def _settle(self, kernel_id: str) -> None:
        del self._unsettled[kernel_id]
        if self._begun:
            self._send_missing()

    def _send_missing(self) -> None:
        first = tuple(self._names[kernel_id] for kernel_id in islice(self._unsettled, MAX_NAMED))
        missing = Missing(len(self._unsettled), len(self._names), first)
        self._put(Frame(Kind.MISSING, missing._asdict()))
        if not self._unsettled and not self._settled:
            self._settled = True
            self._on_settled()
