"""Tournament growth: candidates that enter a round together, and those that fall behind in it.

Successive halving (Karnin, Koren, Somekh, "Almost Optimal Exploration in Multi-Armed Bandits",
2013; Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
2016), in which the number that may be left halves each time that the number of measurements
doubles. There the lower half always goes; here only what is clearly worse than the best does, by a
one-sided t-test of the paired differences at 5 % (Student, "The Probable Error of a Mean", 1908):
the measurements of a report are of the same weights and samples, so their noise is shared.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil, fsum, sqrt
from typing import Final, NamedTuple

from esper.bandit import ArmChoice
from esper.orchestrator.state import Trial
from esper.orchestrator.trials import mean_contribution
from esper.orchestrator.view import View
from esper.topics.models import Orchestration, Plant

T_95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""The 95 % quantile of Student's t with 1, 2, .. degrees of freedom; beyond, the last is used."""


class TournamentCandidate(NamedTuple):
    """A candidate that is planted, and how it was chosen."""

    choice: ArmChoice
    plant: Plant


def candidates(view: View, count: int) -> tuple[TournamentCandidate, ...]:
    """Return up to so many candidates to plant at once, all of them within the limits.

    The first is the selector's best. After it, of those whose category is not in the network yet,
    the best; of all, where there are none. Those at one site share the alpha that is left there in
    equal parts, so that they compete for the same room.
    """
    choices: list[ArmChoice] = []
    places = view.state.run.selection.limits.max_on_trial
    ahead = view
    while len(choices) < count:
        choice = (ahead.of_new_categories().best() if choices else None) or ahead.best()
        if choice is None:
            break
        choices.append(choice)
        site = ahead.arm(choice).kernel.site
        # As if all that may be on trial shared this site: how many do is not known yet.
        plant = view.plant(choice, view.room(site) / places)
        ahead = ahead.after((plant,)).without_kernel(plant.kernel_id)
    sharing = Counter(choice.seat.site for choice in choices)
    return tuple(
        TournamentCandidate(
            choice, view.plant(choice, view.room(choice.seat.site) / sharing[choice.seat.site])
        )
        for choice in choices
    )


class Loser(NamedTuple):
    """A candidate that is clearly worse than the best of its round."""

    trial: Trial
    best: Trial


def losers(view: View) -> tuple[Loser, ...]:
    """Return the candidates that their rounds can do without, the worst of each round first."""
    rounds: dict[int, list[Trial]] = {}
    for trial in view.state.trials:
        if trial.round_seq is not None:
            rounds.setdefault(trial.round_seq, []).append(trial)
    return tuple(
        loser
        for trials in rounds.values()
        if not any(view.warming_up(trial) for trial in trials)
        for loser in _behind(trials, view.orchestration)
    )


def _behind(trials: Sequence[Trial], orchestration: Orchestration) -> Iterable[Loser]:
    means = [(mean, trial) for trial in trials if (mean := mean_contribution(trial)) is not None]
    reports = min(len(trial.contributions) for trial in trials)
    size = max(trial.round_size or 0 for trial in trials)
    surplus = len(trials) - _allowed(size, reports, orchestration.rung_reports)
    if len(means) < len(trials) or surplus <= 0:
        return
    means.sort(key=lambda each: (-each[0], each[1].seat))
    best_mean, best = means[0]
    for mean, trial in means[: -surplus - 1 : -1]:
        alike = mean * orchestration.comparable_ratio_stay >= best_mean
        if not trial.judged and not alike and clearly_worse(trial, best):
            yield Loser(trial, best)


def _allowed(size: int, reports: int, rung_reports: int) -> int:
    """Return how many of a round may be left after so many reports."""
    left, rung = size, rung_reports
    while reports >= rung and left > 1:
        left, rung = ceil(left / 2), 2 * rung
    return left


def clearly_worse(one: Trial, other: Trial) -> bool:
    """Whether what one gave is less than what another did in the same reports, beyond the noise.

    Two reports that both saw it are the least by which noise can be told.
    """
    pairs = zip(reversed(one.contributions), reversed(other.contributions), strict=False)
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    count = len(differences)
    if count < 2:
        return False
    mean = fsum(differences) / count
    variance = fsum((each - mean) ** 2 for each in differences) / (count - 1)
    return mean > T_95[min(count - 1, len(T_95)) - 1] * sqrt(variance / count)
