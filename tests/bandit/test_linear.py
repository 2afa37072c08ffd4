"""The linear model against numpy's solver, and a policy that judges arms by their features."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from esper.bandit import POLICIES, CounterRNG, LinearModel, PolicyContext
from tests.bandit.arms import RNG, columns

WIDTH = 4

observations = st.lists(
    st.tuples(st.lists(st.floats(0, 1), min_size=WIDTH, max_size=WIDTH), st.floats(0, 1)),
    min_size=1,
    max_size=15,
)


def learnt(trials: list[tuple[list[float], float]]) -> LinearModel:
    model = LinearModel()
    for features, reward in trials:
        model = model.after(features, reward)
    return model


@given(observations, st.floats(0.01, 2), st.floats(0.05, 2))
def test_without_chance_the_weights_are_those_of_ridge_regression(
    trials: list[tuple[list[float], float]], sigma: float, prior_sigma: float
) -> None:
    x = np.array([features for features, _ in trials])
    y = np.array([reward for _, reward in trials]) - 0.5
    ridge = (sigma / prior_sigma) ** 2
    expected = np.linalg.solve(x.T @ x + ridge * np.eye(WIDTH), x.T @ y)
    found = learnt(trials).weights([0.0] * WIDTH, sigma, prior_sigma)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_drawn_weights_have_the_covariance_of_the_posterior() -> None:
    generator = np.random.default_rng(1)
    x = generator.random((20, WIDTH))
    model = learnt([(row.tolist(), 0.7) for row in x])
    expected = 0.3**2 * np.linalg.inv(x.T @ x + (0.3 / 0.5) ** 2 * np.eye(WIDTH))
    units = [
        np.array(model.weights(unit.tolist(), 0.3, 0.5))
        - np.array(model.weights([0.0] * WIDTH, 0.3, 0.5))
        for unit in np.eye(WIDTH)
    ]
    root = np.array(units).T
    assert root @ root.T == pytest.approx(expected, abs=1e-9)


def test_a_model_of_nothing_draws_weights_from_the_prior() -> None:
    assert LinearModel().weights([1.0, -2.0], 0.5, 0.25) == [0.25, -0.5]


@given(observations, st.integers(0, 9))
def test_a_later_trial_of_an_arm_counts_less_of_the_features(
    trials: list[tuple[list[float], float]], earlier: int
) -> None:
    before, (features, reward) = learnt(trials[:-1]), trials[-1]
    first, later = before.after(features, reward), before.after(features, reward, earlier)
    old = before.precision or tuple((0.0,) * (row + 1) for row in range(WIDTH))
    for row, (least, most) in enumerate(zip(later.precision, first.precision, strict=True)):
        gained = [new - known for new, known in zip(most, old[row], strict=True)]
        expected = [
            known + gain / (1 + earlier) for known, gain in zip(old[row], gained, strict=True)
        ]
        assert least == pytest.approx(expected, abs=1e-9)


def test_a_model_takes_no_other_number_of_features_than_before() -> None:
    with pytest.raises(ValueError, match="got 3 features; the model has 4"):
        learnt([([0.0] * 4, 0.5)]).after([0.0] * 3, 0.5)


def test_features_that_are_all_alike_leave_the_factor_positive() -> None:
    model = LinearModel()
    for _ in range(1000):
        model = model.after([1.0, 1.0, 1.0], 0.9)
    found = model.weights([0.0] * 3, 1e-3, 10.0)
    assert sum(found) == pytest.approx(0.4, abs=1e-3)


def score_many(tried: tuple[float, float], model: LinearModel | None = None) -> np.ndarray:
    """Scores of one arm whose only feature is 1, over many decisions."""
    arms = columns([tried], [[1.0]])
    policy = POLICIES["linear-thompson"](sigma=0.3, arm_sigma=0.1, weight_sigma=0.2)
    state = PolicyContext(tried[0], model)
    scores = [policy.score(state, arms, CounterRNG(4, seq, "test"))[0] for seq in range(4000)]
    return np.array(scores)


def test_an_arm_never_tried_is_drawn_from_features_alone() -> None:
    """One feature of 1: 0.5, give or take the weight's spread and the arm's own."""
    spread = math.hypot(0.2, 0.1)
    assert stats.kstest(score_many((0, 0.0)), stats.norm(0.5, spread).cdf).pvalue > 0.01


def test_own_trials_count_against_what_features_say() -> None:
    """(sigma / arm_sigma)² = 9 trials are worth as much as the features' word for it."""
    scores = score_many((9, 0.9))
    spread = math.hypot(0.2 / 2, 0.3 / math.sqrt(18))
    assert stats.kstest(scores, stats.norm(0.7, spread).cdf).pvalue > 0.01


def test_an_arm_never_tried_profits_from_others_with_its_features() -> None:
    model = LinearModel()
    for arm in range(30):
        model = model.after([1.0, float(arm % 2)], 0.3 + 0.4 * (arm % 2))
    arms = columns([(0, 0.0)] * 2, [[1.0, 0.0], [1.0, 1.0]])
    policy = POLICIES["linear-thompson"](sigma=0.05, arm_sigma=0.01)
    plain, featured = policy.score(PolicyContext(30.0, model), arms, RNG)
    assert plain == pytest.approx(0.3, abs=0.1)
    assert featured == pytest.approx(0.7, abs=0.1)


def test_arms_without_features_are_refused() -> None:
    with pytest.raises(ValueError, match="needs arms with features"):
        POLICIES["linear-thompson"]().score(PolicyContext(0.0), columns([(0, 0.0)]), RNG)


def test_a_model_is_the_same_after_a_round_trip_through_json() -> None:
    model = learnt([([0.1, 0.2, 0.3, 1.0], 0.7), ([0.4, 0.0, 1.0, 1.0], 0.1)])
    assert LinearModel.model_validate_json(model.model_dump_json()) == model
