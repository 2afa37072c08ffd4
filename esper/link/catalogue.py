"""What a lockstep run begins with: the kernels of the blueprints that stand when it opens.

Which those are follows from the topic of blueprints alone. The catalogue waits until each is
offered or will not be, and says so; what is compiled later is for later runs.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from esper.blueprint import BlueprintRejected, check, requests_for
from esper.link.frames import Frame, Kind
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import Blueprint, KernelReady, KernelRequested, TrainingRun

NAMED: Final = 3
"""How many missing kernels an error message names."""


class Missing(NamedTuple):
    """How many kernels are missing `of` those that a run begins with, and the `first` of them."""

    kernels: int
    of: int
    first: tuple[str, ...]


def expected_kernels(records: Iterable[Record], run: TrainingRun) -> dict[str, str]:
    """Return what the blueprints on their topic become at a run's sites: a name by kernel id.

    As the planner has it: the last of each id that is readable and well formed.
    """
    standing: dict[str, Blueprint] = {}
    for record in records:
        try:
            blueprint = decode(Blueprint, record.value)
            check(blueprint)
        except (Undecodable, BlueprintRejected):
            continue
        standing[blueprint.blueprint_id] = blueprint
    wanted = requests_for(standing.values(), [run])
    return {request.kernel_id: _name(request) for request in wanted}


def _name(request: KernelRequested) -> str:
    signature = request.site_signature
    return f"{request.blueprint.blueprint_id} at {signature.kind}:{'x'.join(map(str, signature.h))}"


@dataclass(slots=True)
class _Expected:
    """A kernel not settled yet: how many announcements are being verified, what was heard."""

    verifying: int = 0
    answered: bool = False
    refusal: str | None = None


class Catalogue:
    """The kernels that a lockstep run waits for, whatever threads tell of them.

    A kernel is settled when one announcement of it was verified, or when the compile workers have
    answered this run and nothing that they announced can be loaded. What an earlier run's
    announcement was refused for settles nothing: the answer to this one may mend it.
    """

    def __init__(self, expected: Mapping[str, str], put: Callable[[Frame], None]) -> None:
        """Tell what is offered, refused and missing by frames through `put`."""
        self._names = dict(expected)
        self._open = {kernel_id: _Expected() for kernel_id in expected}
        self._put = put
        self._begun = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Say what is missing, now that all announced before this run has been seen."""
        with self._lock:
            self._begun = True
            for kernel_id in list(self._open):
                self._settle_if_answered(kernel_id)
            self._tell()

    def announced(self, kernel_id: str, *, earlier: bool = False) -> bool:
        """Note an announcement; return whether it is to be verified.

        `earlier` ones were there before this run could be answered.
        """
        with self._lock:
            if (expected := self._open.get(kernel_id)) is None:
                return False
            expected.verifying += 1
            expected.answered |= not earlier
            return True

    def rejected(self, kernel_id: str) -> None:
        """Note that the compile workers made no kernel."""
        with self._lock:
            if (expected := self._open.get(kernel_id)) is not None:
                expected.answered = True
                self._settle_if_answered(kernel_id)

    def verified(self, ready: KernelReady) -> None:
        """Offer a kernel, once."""
        with self._lock:
            if ready.kernel_id in self._open:
                self._put(Frame(Kind.KERNEL_VERIFIED, {}, encode(ready)))
                self._settle(ready.kernel_id)

    def refused(self, kernel_id: str, reason: str) -> None:
        """Note that what was announced cannot be loaded."""
        with self._lock:
            if (expected := self._open.get(kernel_id)) is not None:
                expected.verifying -= 1
                expected.refusal = reason
                self._settle_if_answered(kernel_id)

    def _settle_if_answered(self, kernel_id: str) -> None:
        expected = self._open[kernel_id]
        if not self._begun or not expected.answered or expected.verifying:
            return
        if expected.refusal is not None:
            head = {"kernel_id": kernel_id, "reason": expected.refusal}
            self._put(Frame(Kind.KERNEL_REFUSED, head))
        self._settle(kernel_id)

    def _settle(self, kernel_id: str) -> None:
        del self._open[kernel_id]
        if self._begun:
            self._tell()

    def _tell(self) -> None:
        first = tuple(self._names[kernel_id] for kernel_id in islice(self._open, NAMED))
        missing = Missing(len(self._open), len(self._names), first)
        self._put(Frame(Kind.MISSING, missing._asdict()))
