"""Thompson sampling: scores are draws from what is believed of each arm."""

import numpy as np
import pytest
from scipy import stats

from esper.bandit import POLICIES, CounterRNG, Discounting, Policy, PolicyContext
from tests.bandit.arms import columns

DRAWS = 20_000

BETA = ("thompson-beta", "sliding-thompson", "discounted-thompson")


def draws_of(policy: Policy, weight: float, mean: float) -> np.ndarray:
    arms = columns([(weight, mean)] * DRAWS)
    return policy.score(PolicyContext(weight), arms, CounterRNG(8, 0, "test"))


@pytest.mark.parametrize("name", BETA)
@pytest.mark.parametrize(
    ("weight", "mean", "a", "b"),
    [(0, 0.0, 1, 1), (1, 1.0, 2, 1), (4, 0.25, 2, 4), (2.5, 0.2, 1.5, 3.0), (40, 0.9, 37, 5)],
)
def test_beta_scores_are_drawn_from_the_posterior_of_fractional_successes(
    name: str, weight: float, mean: float, a: float, b: float
) -> None:
    drawn = draws_of(POLICIES[name](), weight, mean)
    assert stats.kstest(drawn, stats.beta(a, b).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("weight", "mean", "sigma", "prior_sigma", "centre", "spread"),
    [
        (0, 0.0, 0.5, 0.25, 0.5, 0.25),
        (3, 0.9, 0.5, 0.5, (0.5 + 3 * 0.9) / 4, 0.25),
        (5, 0.6, 0.1, 0.05, (4 * 0.5 + 5 * 0.6) / 9, 0.1 / 3),
    ],
)
def test_gaussian_scores_are_drawn_from_the_posterior_of_the_stated_noise(
    weight: float, mean: float, sigma: float, prior_sigma: float, centre: float, spread: float
) -> None:
    """The prior counts as (sigma / prior_sigma)² trials of reward 0.5."""
    drawn = draws_of(POLICIES["thompson-gaussian"](sigma, prior_sigma), weight, mean)
    assert stats.kstest(drawn, stats.norm(centre, spread).cdf).pvalue > 0.01


def test_less_noise_separates_means_that_lie_close() -> None:
    """0.52 against 0.50 after 20 trials each: a coin toss for a beta, certain at sigma 0.01."""
    better = columns([(20, 0.52)] * 2000)
    worse = columns([(20, 0.50)] * 2000)

    def share(policy: Policy) -> float:
        ours, theirs = (
            policy.score(PolicyContext(40.0), arms, CounterRNG(1, seq, "test"))
            for seq, arms in enumerate((better, worse))
        )
        return float(np.mean(ours > theirs))

    assert 0.5 < share(POLICIES["thompson-beta"]()) < 0.65
    assert share(POLICIES["thompson-gaussian"](sigma=0.01)) == 1.0


def test_what_each_forgets() -> None:
    assert POLICIES["thompson-beta"]().discounting == Discounting()
    assert POLICIES["thompson-gaussian"]().discounting == Discounting()
    assert POLICIES["sliding-thompson"](window=50.0).discounting == Discounting(window=50)
    assert POLICIES["discounted-thompson"](discount=0.9).discounting == Discounting(discount=0.9)


def test_forgetting_changes_what_is_seen_and_not_how_it_is_scored() -> None:
    arms, state, rng = columns([(3, 0.4), (9, 0.6)]), PolicyContext(12.0), CounterRNG(1, 1, "test")
    scores = [POLICIES[name]().score(state, arms, rng).tolist() for name in BETA]
    assert scores[0] == scores[1] == scores[2]
