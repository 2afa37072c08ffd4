"""Tournaments: candidates that are planted in one round, and early elimination of the losers.

Successive halving: Karnin, Koren, Somekh, "Almost Optimal Exploration in Multi-Armed Bandits"
(ICML 2013); Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization" (AISTATS 2016). The allowed number of candidates halves each
time that the number of measurements doubles. The papers eliminate the lower half; this module
eliminates only candidates that are clearly worse than the best one, by a one-sided paired t-test at
5 % (Student, "The Probable Error of a Mean", Biometrika 6, 1908). The test is paired because all
measurements of a report use the same weights and samples and so share their noise.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil, fsum, sqrt
from typing import Final, NamedTuple

from esper.bandit import ArmChoice
from esper.orchestrator.state import Trial
from esper.orchestrator.view import View
from esper.topics.models import Orchestration, Plant

T_95: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""The 95 % quantile of Student's t for 1 to 9 degrees of freedom; more degrees use the last."""


class TournamentCandidate(NamedTuple):
    """A candidate of a round: the selector's choice, and the operation that plants it."""

    choice: ArmChoice
    plant: Plant


def choose_candidates(view: View, count: int) -> tuple[TournamentCandidate, ...]:
    """Return up to `count` candidates to plant in one decision, within all limits.

    The first is the selector's best. Each next one is the best of a category that the network does
    not have; without such a category, the best of all. The candidates at one site share its
    remaining alpha equally.
    """
    choices: list[ArmChoice] = []
    max_on_trial = view.state.run.selection.limits.max_on_trial
    ahead = view
    while len(choices) < count:
        choice = (ahead.of_new_categories().best() if choices else None) or ahead.best()
        if choice is None:
            break
        choices.append(choice)
        site = ahead.arm(choice).kernel.site
        # The number of candidates at this site is not known yet, so assume the largest one.
        plant = view.plant(choice, view.alpha_left(site) / max_on_trial)
        ahead = ahead.after((plant,)).without_kernel(plant.kernel_id)
    at_site = Counter(choice.slot_id.site for choice in choices)
    alphas = {site: view.alpha_left(site) / count for site, count in at_site.items()}
    return tuple(
        TournamentCandidate(choice, view.plant(choice, alphas[choice.slot_id.site]))
        for choice in choices
    )


class Loser(NamedTuple):
    """A candidate that is clearly worse than the best of its round."""

    trial: Trial
    best: Trial


def losers(view: View) -> tuple[Loser, ...]:
    """Return the candidates to eliminate from their rounds, the worst of each round first."""
    rounds: dict[int, list[Trial]] = {}
    for trial in view.state.trials:
        if trial.round_seq is not None:
            rounds.setdefault(trial.round_seq, []).append(trial)
    return tuple(
        loser
        for trials in rounds.values()
        if not any(view.warming_up(trial) for trial in trials)
        for loser in _losers_of_round(trials, view.orchestration)
    )


def _losers_of_round(trials: Sequence[Trial], orchestration: Orchestration) -> Iterable[Loser]:
    means = [(mean, trial) for trial in trials if (mean := trial.mean_contribution()) is not None]
    reports = min(len(trial.contributions) for trial in trials)
    size = max(trial.round_size or 0 for trial in trials)
    surplus = len(trials) - _allowed(size, reports, orchestration.rung_reports)
    if len(means) < len(trials) or surplus <= 0:
        return
    means.sort(key=lambda pair: (-pair[0], pair[1].slot_id))
    best_mean, best = means[0]
    for mean, trial in means[: -surplus - 1 : -1]:
        comparable = mean * orchestration.comparable_ratio_stay >= best_mean
        if not trial.judged and not comparable and clearly_worse(trial, best):
            yield Loser(trial, best)


def _allowed(size: int, reports: int, rung_reports: int) -> int:
    """Return the number of candidates that a round of `size` may have after `reports` reports."""
    left, rung = size, rung_reports
    while reports >= rung and left > 1:
        left, rung = ceil(left / 2), 2 * rung
    return left


def clearly_worse(one: Trial, other: Trial) -> bool:
    """Return whether `one` contributed significantly less than `other` in the same reports.

    With fewer than two common reports the noise is unknown, and the result is False.
    """
    pairs = zip(reversed(one.contributions), reversed(other.contributions), strict=False)
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    count = len(differences)
    if count < 2:
        return False
    mean = fsum(differences) / count
    variance = fsum((difference - mean) ** 2 for difference in differences) / (count - 1)
    return mean > T_95[min(count - 1, len(T_95)) - 1] * sqrt(variance / count)
