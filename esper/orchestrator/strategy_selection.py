"""Choose the strategy of an orchestrated run: signals of its state, and rules over the signals.

A signal is a value with two thresholds. The first rule with a signal that is on gives the strategy.
"""

from collections.abc import Callable, Iterator, Sequence
from math import fsum
from typing import Final, NamedTuple

import numpy as np

from esper.orchestrator.explain import contributed, percent
from esper.orchestrator.state import StrategyState, Trial
from esper.orchestrator.view import DecisionPlan, View
from esper.topics.models import ActiveStrategy, Orchestration, SeedState, Signal

MAX_RATIO: Final = 1000.0
"""Ratios are capped here; a non-positive denominator counts as the cap."""


class SignalReading(NamedTuple):
    """The value of one signal, and whether the signal is on.

    `enters` is the state against the threshold `enter`, which starts a strategy; `stays` against
    the looser `stay`, which keeps a strategy that runs. `trials` are the trials that the signal is
    about, the best first; `description` states the value in words.
    """

    name: str
    value: float | None
    enter: float
    stay: float
    enters: bool
    stays: bool
    description: str
    site: str | None = None
    trials: tuple[Trial, ...] = ()

    def on(self, staying: bool) -> bool:
        """Return whether the signal is on, for a strategy that runs (`staying`) or does not."""
        return self.stays if staying else self.enters

    def to_event(self, staying: bool) -> Signal:
        """Return the signal as decisions record it."""
        return Signal(
            name=self.name,
            site=self.site,
            value=self.value,
            threshold=self.stay if staying else self.enter,
            on=self.on(staying),
        )


SignalReadings = Sequence[SignalReading]


def trials_of(readings: SignalReadings, *names: str) -> tuple[Trial, ...]:
    """Return the trials of the readings with these names, without duplicates."""
    trials = [trial for reading in readings if reading.name in names for trial in reading.trials]
    return tuple({trial.slot_id: trial for trial in trials}.values())


def read_signals(view: View, rules: Sequence["Rule"] = ()) -> tuple[SignalReading, ...]:
    """Return the readings of all signals that have a value in this view, those of rules last."""
    active, orchestration = _active(view), view.orchestration
    return (
        *_harmful(view, orchestration, active),
        *_weak(view, active),
        *_comparisons(view, orchestration, active),
        *_plateau(view, orchestration),
        *_idle(view, orchestration),
        _spent(view),
        *(reading for rule in rules for reading in rule.read(view)),
    )


def _active(view: View) -> tuple[Trial, ...]:
    """Return the trials of active seeds; other seeds have no readings yet."""
    at_full = {
        (seed.site, seed.slot) for seed in view.report.seeds if seed.state is SeedState.ACTIVE
    }
    return tuple(trial for trial in view.state.trials if trial.slot_id in at_full)


def _reading(
    name: str,
    value: float | None,
    threshold: float,
    on: bool,
    description: str,
    trial: Trial | None = None,
) -> SignalReading:
    """Return the reading of a signal with one threshold, for a trial or for the run."""
    site, trials = (trial.site, (trial,)) if trial else (None, ())
    return SignalReading(name, value, threshold, threshold, on, on, description, site, trials)


def _harmful(
    view: View, orchestration: Orchestration, active: Sequence[Trial]
) -> Iterator[SignalReading]:
    reports, least = orchestration.harm_reports, -orchestration.harm_share
    for trial in active:
        recent = [value for value in trial.contributions[-reports:] if value is not None]
        share = view.share(fsum(recent) / reports) if len(recent) == reports else None
        if share is not None:
            description = f"{view.blueprint_of(trial)} raises the probe loss by {percent(-share)}"
            yield _reading("harmful", share, least, share < least, description, trial)


def _weak(view: View, active: Sequence[Trial]) -> Iterator[SignalReading]:
    for trial in active:
        if trial.judged:
            yield _verdict_reading("weak", view, trial, on=not _passed(view, trial))


def _proven(view: View, trial: Trial) -> Iterator[SignalReading]:
    """Yield the reading of a seed that is alone at its site and has been judged."""
    if trial.judged:
        yield _verdict_reading("proven", view, trial, on=_passed(view, trial))


def _verdict_reading(name: str, view: View, trial: Trial, on: bool) -> SignalReading:
    share = view.share(trial.mean_contribution())
    return _reading(name, share, view.least_share, on, contributed(view, trial), trial)


def _passed(view: View, trial: Trial) -> bool:
    return view.worth_keeping(trial.mean_contribution())


def _comparisons(
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
        means = [(trial.mean_contribution(), trial) for trial in trials]
        measured = [(mean, trial) for mean, trial in means if mean is not None]
        least = orchestration.rung_reports
        enough = all(trial.judged or _measured(trial) >= least for trial in trials)
        if enough and len(measured) == len(trials):
            measured.sort(key=lambda pair: (-pair[0], pair[1].slot))
            yield from _compare(view, orchestration, measured)


def _measured(trial: Trial) -> int:
    return sum(value is not None for value in trial.contributions)


def _compare(
    view: View, orchestration: Orchestration, measured: Sequence[tuple[float, Trial]]
) -> Iterator[SignalReading]:
    """Yield the comparison of a site's seeds, which `measured` lists from the best.

    Once all their trials are judged, no more measurements come: the comparison is final.
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
    if less <= 0 or greater >= MAX_RATIO * less:
        return MAX_RATIO
    return greater / less


def _times(ratio: float) -> str:
    return "beyond compare with" if ratio >= MAX_RATIO else f"{ratio:.1f} times"


def _plateau(view: View, orchestration: Orchestration) -> Iterator[SignalReading]:
    strategy_state, reports = view.state.strategy_state, orchestration.plateau_reports
    if strategy_state is None or len(strategy_state.losses) < 2 * reports:
        return
    before, recent = min(strategy_state.losses[:reports]), min(strategy_state.losses[reports:])
    better = (before - recent) / max(abs(before), 1e-12)
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
        yield _reading("idle", trials, 0.0, not trials, "nothing is on trial")


def _spent(view: View) -> SignalReading:
    """Return the reading that is on when constraints rule out every arm."""
    codes = view.codes()
    free = len(codes) - int(np.count_nonzero(codes))
    return _reading("spent", free, 0.0, not free, "no arm may be planted")


def _no_readings(view: View) -> Sequence[SignalReading]:
    return ()


Propose = Callable[[View, SignalReadings], DecisionPlan | None]
"""A strategy: return a plan for a view and the signals that are on, or None for no change."""


class Rule(NamedTuple):
    """Choose `strategy` when one of `signals` is on, unless the signal `unless` is on.

    An `urgent` rule does not wait for the cooldown. `read` returns the readings of a signal that
    only this rule uses. An `optional` rule is used by runs that name its strategy.
    """

    signals: tuple[str, ...]
    strategy: str
    propose: Propose
    unless: str | None = None
    urgent: bool = False
    optional: bool = False
    read: Callable[[View], Sequence[SignalReading]] = _no_readings


def choose_strategy(
    rules: Sequence[Rule],
    strategy_state: StrategyState,
    orchestration: Orchestration,
    readings: SignalReadings,
    seq: int,
) -> StrategyState:
    """Return the strategy state with the strategy of the first rule whose signal is on.

    The strategy stays where no rule applies, and during the cooldown after a change. Signals of
    the current strategy are compared with the looser thresholds.
    """
    for rule in rules:
        is_current = rule.strategy == strategy_state.strategy
        trigger = _trigger(rule, readings, is_current)
        if trigger is None:
            continue
        cooling_down = strategy_state.strategy is not None and (
            seq - strategy_state.since_seq < orchestration.cooldown_reports
        )
        if is_current or (cooling_down and not rule.urgent):
            return strategy_state
        where = "" if trigger.site is None else f"{trigger.site}: "
        return strategy_state.model_copy(
            update={
                "strategy": rule.strategy,
                "since_seq": seq,
                "why": f"{where}{trigger.description}"[:200],
            }
        )
    return strategy_state


def _trigger(rule: Rule, readings: SignalReadings, staying: bool) -> SignalReading | None:
    """Return the first reading that is on for a rule; None where the rule does not apply."""
    on = [reading for reading in readings if reading.on(staying)]
    if any(reading.name == rule.unless for reading in on):
        return None
    return next((reading for reading in on if reading.name in rule.signals), None)


def strategy_choice(
    rules: Sequence[Rule], before: StrategyState, after: StrategyState, readings: SignalReadings
) -> ActiveStrategy | None:
    """Return the choice as decisions record it, with the thresholds that applied."""
    if after.strategy is None:
        return None
    keeps = {name for rule in rules if rule.strategy == before.strategy for name in rule.signals}
    return ActiveStrategy(
        strategy=after.strategy,
        since_seq=after.since_seq,
        why=after.why,
        changed=(before.strategy, before.since_seq) != (after.strategy, after.since_seq),
        signals=tuple(reading.to_event(reading.name in keeps) for reading in readings),
    )
