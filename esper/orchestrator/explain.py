"""Contributions and expectations as a person reads them: in percent of the probe loss."""

from math import sqrt

from esper.bandit import NO_PRIOR, ArmChoice, HistoryKey, share_of
from esper.orchestrator.state import Trial
from esper.orchestrator.trials import mean_contribution
from esper.orchestrator.view import View


def percent(share: float) -> str:
    """Return a share as `1.4%`."""
    return f"{share:.1%}"


def contributed(view: View, trial: Trial) -> str:
    """Return what a seed has given since it is measured."""
    name, contribution = view.blueprint_of(trial), mean_contribution(trial)
    share, first = view.share(contribution), view.state.first_loss
    if contribution is None or share is None:
        return f"{name} makes the probe loss impossible to measure"
    of_first = f" ({percent(contribution / first)} of the first)" if first else ""
    reports = len(trial.contributions)
    noun = "report" if reports == 1 else "reports"
    return f"{name} contributed {percent(share)}{of_first} for {reports} {noun}"


def expected_share(view: View, choice: ArmChoice) -> float | None:
    """Return what a candidate gave in its trials here, as a share of the probe loss; None: none."""
    kernel = view.arm(choice).kernel
    history = view.state.tracker.of(HistoryKey(kernel.site, None, kernel.blueprint_id))
    if history is None:
        return None
    return share_of(history.mean, kernel.params, view.state.run.run_config.host_params)


def expected(view: View, choice: ArmChoice) -> str:
    """Return what a candidate is expected to give at its site, from its own trials or before."""
    arm = view.arm(choice)
    name, params = arm.kernel.blueprint_id, arm.kernel.params
    host_params = view.state.run.run_config.host_params
    history = view.state.tracker.of(HistoryKey(arm.kernel.site, None, name))
    if history is not None:
        share = share_of(history.mean, params, host_params)
        if history.pulls == 1:
            return f"{name} is expected to give {percent(share)}, by one trial"
        far = sqrt(history.variance)
        low, high = (share_of(history.mean + each, params, host_params) for each in (-far, far))
        return f"{name} is expected to give {100 * share:.1f} ± {percent((high - low) / 2)}"
    prior = view.state.arms.arm_stats.priors.get(choice.arm, NO_PRIOR)
    if prior.weight:
        share = share_of(prior.mean, params, host_params)
        return f"{name} was never tried and is believed to give {percent(share)}"
    return f"{name} was never tried"


def fallen_behind(view: View, trial: Trial, best: Trial) -> str:
    """Return how a candidate compares with the best of its round."""
    leads = view.share(mean_contribution(best))
    than = f"{view.blueprint_of(best)} at {best.site}"
    return f"{contributed(view, trial)} and {than} {percent(leads or 0.0)}"
