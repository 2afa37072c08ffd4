"""Signs by which it is chosen what a run intends: pure readings of its state and last report."""

from collections.abc import Iterator, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np

from esper.orchestrator.explain import contributed, percent
from esper.orchestrator.state import Trial
from esper.orchestrator.trials import mean_contribution
from esper.orchestrator.view import View
from esper.topics.models import Orchestration, SeedState, Signal

MOST_RATIO = 1000.0
"""What is at least so many times another, or more than nothing, is not told apart."""


class SignalReading(NamedTuple):
    """One sign: what was found, and whether it calls for a strategy or, once pursued, keeps it.

    `trials` are what it is about, the best first; `words` say what was found.
    """

    name: str
    value: float | None
    enter: float
    stay: float
    enters: bool
    stays: bool
    words: str
    site: str | None = None
    trials: tuple[Trial, ...] = ()

    def on(self, staying: bool) -> bool:
        """Whether it is a sign, where its strategy is pursued already or where it is not."""
        return self.stays if staying else self.enters

    def told(self, staying: bool) -> Signal:
        """Return it as a decision tells it."""
        return Signal(
            name=self.name,
            site=self.site,
            value=self.value,
            threshold=self.stay if staying else self.enter,
            on=self.on(staying),
        )


SignalReadings = Sequence[SignalReading]


def of(readings: SignalReadings, *names: str) -> tuple[Trial, ...]:
    """Return the trials that readings of these names are about, each once."""
    trials = [trial for each in readings if each.name in names for trial in each.trials]
    return tuple({trial.seat: trial for trial in trials}.values())


def read(view: View) -> tuple[SignalReading, ...]:
    """Return every sign that there is something to read of."""
    active, orchestration = _active(view), view.orchestration
    return (
        *_harmful(view, orchestration, active),
        *_weak(view, active),
        *_of_sites(view, orchestration, active),
        *_plateau(view, orchestration),
        *_idle(view, orchestration),
        _spent(view),
    )


def _active(view: View) -> tuple[Trial, ...]:
    """Return the trials of seeds at full alpha; of the others nothing is said yet."""
    at_full = {
        (seed.site, seed.slot) for seed in view.report.seeds if seed.state is SeedState.ACTIVE
    }
    return tuple(trial for trial in view.state.trials if trial.seat in at_full)


def _sign(
    name: str,
    value: float | None,
    threshold: float,
    on: bool,
    words: str,
    trial: Trial | None = None,
) -> SignalReading:
    """Return a sign with one threshold, of a seed or of the run."""
    site, trials = (trial.site, (trial,)) if trial else (None, ())
    return SignalReading(name, value, threshold, threshold, on, on, words, site, trials)


def _harmful(
    view: View, orchestration: Orchestration, active: Sequence[Trial]
) -> Iterator[SignalReading]:
    reports, least = orchestration.harm_reports, -orchestration.harm_share
    for trial in active:
        lately = [each for each in trial.contributions[-reports:] if each is not None]
        share = view.share(fsum(lately) / reports) if len(lately) == reports else None
        if share is not None:
            words = f"{view.blueprint_of(trial)} raises the probe loss by {percent(-share)}"
            yield _sign("harmful", share, least, share < least, words, trial)


def _weak(view: View, active: Sequence[Trial]) -> Iterator[SignalReading]:
    for trial in active:
        if trial.judged:
            yield _verdict("weak", view, trial, on=not _passed(view, trial))


def _proven(view: View, trial: Trial) -> Iterator[SignalReading]:
    """Yield whether a seed alone at its site has passed its trial."""
    if trial.judged:
        yield _verdict("proven", view, trial, on=_passed(view, trial))


def _verdict(name: str, view: View, trial: Trial, on: bool) -> SignalReading:
    share = view.share(mean_contribution(trial))
    return _sign(name, share, view.least_share, on, contributed(view, trial), trial)


def _passed(view: View, trial: Trial) -> bool:
    return view.worth_keeping(mean_contribution(trial))


def _of_sites(
    view: View, orchestration: Orchestration, active: Sequence[Trial]
) -> Iterator[SignalReading]:
    by_site: dict[str, list[Trial]] = {}
    for trial in view.state.trials:
        by_site.setdefault(trial.site, []).append(trial)
    for site in sorted(by_site):
        trials = by_site[site]
        if not all(trial in active and not view.warming_up(trial) for trial in trials):
            continue
        if len(trials) == 1:
            yield from _proven(view, trials[0])
            continue
        means = [(mean_contribution(trial), trial) for trial in trials]
        measured = [(mean, trial) for mean, trial in means if mean is not None]
        least = orchestration.rung_reports
        enough = all(trial.judged or _measured(trial) >= least for trial in trials)
        if enough and len(measured) == len(trials):
            measured.sort(key=lambda each: (-each[0], each[1].slot))
            yield from _among(view, orchestration, measured)


def _measured(trial: Trial) -> int:
    return sum(each is not None for each in trial.contributions)


def _among(
    view: View, orchestration: Orchestration, measured: Sequence[tuple[float, Trial]]
) -> Iterator[SignalReading]:
    """Yield how the seeds of a site compare, of which the best is first.

    Once all their trials are over nothing more is to come: they are told apart for good.
    """
    (best, first), (second, _), (worst, _) = measured[0], measured[1], measured[-1]
    over = all(trial.judged for _, trial in measured)
    site, trials = first.site, tuple(trial for _, trial in measured)
    lead, spread = _ratio(best, second), _ratio(best, worst)
    within = lead <= orchestration.comparable_ratio_stay
    worth = view.worth_keeping(best)
    stays = worth and (lead >= orchestration.dominance_stay or (over and not within))
    yield SignalReading(
        "dominant",
        lead,
        orchestration.dominance_stay if over else orchestration.dominance,
        orchestration.dominance_stay,
        stays if over else worth and lead >= orchestration.dominance,
        stays,
        f"{view.blueprint_of(first)} gives {_times(lead)} what the next does",
        site,
        trials,
    )
    limit = orchestration.comparable_ratio_stay if over else orchestration.comparable_ratio
    alike = view.worth_keeping(worst)
    yield SignalReading(
        "comparable",
        lead if over else spread,
        limit,
        orchestration.comparable_ratio_stay,
        alike and (within if over else spread <= limit),
        alike and (within if over else spread <= orchestration.comparable_ratio_stay),
        f"the best of {len(trials)} gives {_times(spread)} what the worst does",
        site,
        trials,
    )


def _ratio(greater: float, less: float) -> float:
    if less <= 0 or greater >= MOST_RATIO * less:
        return MOST_RATIO
    return greater / less


def _times(ratio: float) -> str:
    return "beyond compare with" if ratio >= MOST_RATIO else f"{ratio:.1f} times"


def _plateau(view: View, orchestration: Orchestration) -> Iterator[SignalReading]:
    strategy_state, reports = view.state.strategy_state, orchestration.plateau_reports
    if strategy_state is None or len(strategy_state.losses) < 2 * reports:
        return
    before, lately = min(strategy_state.losses[:reports]), min(strategy_state.losses[reports:])
    better = (before - lately) / max(abs(before), 1e-12)
    yield SignalReading(
        "plateau",
        better,
        orchestration.plateau_share,
        orchestration.plateau_share_stay,
        better < orchestration.plateau_share,
        better < orchestration.plateau_share_stay,
        f"the probe loss fell by {percent(better)} in {reports} reports",
    )


def _idle(view: View, orchestration: Orchestration) -> Iterator[SignalReading]:
    if not orchestration.waits_for_plateau:
        trials = len(view.state.trials)
        yield _sign("idle", trials, 0.0, not trials, "nothing is on trial")


def _spent(view: View) -> SignalReading:
    """Return whether nothing may be planted: a budget, seats or other limits are used up."""
    codes = view.codes()
    free = len(codes) - int(np.count_nonzero(codes))
    return _sign("spent", free, 0.0, not free, "no arm may be planted")
