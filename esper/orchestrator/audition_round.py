"""The state of the auditions of a run, and which kernels passed."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from pydantic import ConfigDict

from esper.orchestrator.candidates import Arms
from esper.topics.models import (
    Audition,
    AuditionResult,
    Auditions,
    OmitsDefaults,
    SeedReport,
    SiteName,
)

CONTROLS: Final = frozenset({"identity"})
"""Blueprints that are tried as controls, and never planted."""

Name = tuple[SiteName, str]
"""A site, and the id of a kernel there."""


class AuditionRound(OmitsDefaults):
    """The running or last round of auditions.

    `awaited` are the kernels whose results are missing, `results` the latest result of each kernel
    of the round, `planted` those of the round that a decision planted, in order. `kept` is whether
    one of them was kept, and `fruitless` the number of rounds just before in which none was.
    `arrival_seq` is the last report with a new kernel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str | None = None
    rung: int = 0
    since_seq: int = 0
    awaited: tuple[Name, ...] = ()
    results: tuple[AuditionResult, ...] = ()
    planted: tuple[Name, ...] = ()
    kept: bool = False
    fruitless: int = 0
    arrival_seq: int = 0

    @property
    def rung_results(self) -> tuple[AuditionResult, ...]:
        """The results of the running or last rung."""
        return tuple(one for one in self.results if one.rung == self.rung)

    def of(self, site: str, kernel_id: str) -> AuditionResult | None:
        """Return the latest result of a kernel; None without one."""
        return next(
            (one for one in self.results if (one.site, one.kernel_id) == (site, kernel_id)), None
        )


class Passed(NamedTuple):
    """A kernel that passed, with its result."""

    name: Name
    result: AuditionResult


def with_report(round_: AuditionRound, report: SeedReport) -> AuditionRound:
    """Return the round after the results and kernels of a report."""
    changes: dict[str, object] = {}
    if report.kernels:
        changes["arrival_seq"] = report.seq
    awaited = set(round_.awaited)
    found = {
        name: one
        for one in report.auditions
        if (name := (one.site, one.kernel_id)) in awaited and one.rung == round_.rung
    }
    if found:
        changes["awaited"] = tuple(name for name in round_.awaited if name not in found)
        results = {(one.site, one.kernel_id): one for one in round_.results} | found
        changes["results"] = tuple(results[name] for name in sorted(results))
    return round_.model_copy(update=changes) if changes else round_


def started(
    round_: AuditionRound, auditions: Sequence[Audition], decision_id: str, seq: int
) -> AuditionRound:
    """Return the round that decision `decision_id` of report `seq` starts or continues."""
    awaited = tuple((one.site, kernel_id) for one in auditions for kernel_id in one.kernel_ids)
    rung = auditions[0].rung
    if rung == 0:
        return AuditionRound(
            snapshot_id=decision_id,
            since_seq=seq,
            awaited=awaited,
            fruitless=0 if round_.snapshot_id is None or round_.kept else round_.fruitless + 1,
            arrival_seq=round_.arrival_seq,
        )
    return round_.model_copy(update={"rung": rung, "since_seq": seq, "awaited": awaited})


def passed(round_: AuditionRound, settings: Auditions, arms: Arms, seq: int) -> list[Passed]:
    """Return the kernels that passed the round and may still be planted, the best first."""
    if round_.kept or len(round_.planted) >= settings.candidates:
        return []
    if not is_complete(round_, settings, seq):
        return []
    return [
        Passed(name, one)
        for one in by_gain(round_.rung_results)
        if (name := (one.site, one.kernel_id)) not in round_.planted
        and is_gain(one, settings.errors)
        and not _is_control(arms, name)
    ]


def rung_is_over(round_: AuditionRound, settings: Auditions, seq: int) -> bool:
    """Return whether the results of the rung are complete, or no longer waited for."""
    return not round_.awaited or seq - round_.since_seq >= settings.timeout_reports


def is_complete(round_: AuditionRound, settings: Auditions, seq: int) -> bool:
    """Return whether a round has begun and no rung follows: the last is over, or all failed."""
    if round_.snapshot_id is None or not rung_is_over(round_, settings, seq):
        return False
    is_last = round_.rung + 1 >= len(settings.rung_steps)
    return is_last or not by_gain(round_.rung_results)


def is_unanswered(round_: AuditionRound, settings: Auditions, seq: int) -> bool:
    """Return whether a whole rung was waited for in vain: no audition worker answers."""
    over = round_.snapshot_id is not None and rung_is_over(round_, settings, seq)
    return over and not round_.results


def is_gain(result: AuditionResult, errors: float) -> bool:
    """Return whether a gain exceeds nothing, and that of the control, by its error."""
    if result.gain is None or result.error is None:
        return False
    return result.gain - errors * result.error > max(0.0, result.control_gain or 0.0)


def by_gain(results: Sequence[AuditionResult]) -> list[AuditionResult]:
    """Return the results that have a gain, the largest first; equal ones by name."""
    measured = [one for one in results if one.gain is not None]
    return sorted(measured, key=lambda one: (-(one.gain or 0.0), one.site, one.kernel_id))


def _is_control(arms: Arms, name: Name) -> bool:
    arm = arms.on(*name)
    return arm is None or arm.kernel.blueprint_id in CONTROLS
