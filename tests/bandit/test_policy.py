"""UCB1 as in the paper, and nothing beside it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import POLICIES, ArmStatistics, policy_for
from topics.models import PolicySpec

UCB1 = POLICIES["ucb1"]

arms = st.lists(
    st.builds(ArmStatistics, pulls=st.integers(1, 1000), mean=st.floats(0, 1)),
    min_size=1,
    max_size=20,
)


@given(arms)
def test_the_score_is_the_mean_plus_the_exploration_term_of_the_paper(
    tried: list[ArmStatistics],
) -> None:
    total = sum(arm.pulls for arm in tried)
    expected = [arm.mean + math.sqrt(2 * math.log(total) / arm.pulls) for arm in tried]
    assert UCB1.score(tried, {}) == pytest.approx(expected, abs=1e-9)


def test_a_hand_worked_case() -> None:
    """t = 8, ln 8 = 2.0794; 0.5 + sqrt(4.1589 / 2) and 0.75 + sqrt(4.1589 / 6)."""
    tried = [ArmStatistics(2, 0.5), ArmStatistics(6, 0.75)]
    assert UCB1.score(tried, {}) == pytest.approx([1.942027, 1.582555], abs=1e-6)


def test_exploration_weighs_the_second_term() -> None:
    tried = [ArmStatistics(2, 0.5), ArmStatistics(6, 0.75)]
    assert UCB1.score(tried, {"exploration": 0.0}) == [0.5, 0.75]
    assert UCB1.score(tried, {"exploration": 0.5}) == pytest.approx([1.221014, 1.166277], abs=1e-6)


@given(arms)
def test_an_arm_never_tried_has_no_finite_score(tried: list[ArmStatistics]) -> None:
    scores = UCB1.score([*tried, ArmStatistics()], {})
    assert scores[-1] is None
    assert None not in scores[:-1]


@given(arms, st.data())
def test_a_better_mean_never_scores_worse(tried: list[ArmStatistics], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(tried) - 1))
    better = data.draw(st.floats(tried[index].mean, 1))
    improved = list(tried)
    improved[index] = ArmStatistics(tried[index].pulls, better)
    before, after = UCB1.score(tried, {})[index], UCB1.score(improved, {})[index]
    assert before is not None and after is not None and after >= before


def test_an_arm_left_alone_scores_higher_as_the_others_are_tried() -> None:
    alone = ArmStatistics(1, 0.5)
    scores = [UCB1.score([alone, ArmStatistics(n, 0.5)], {})[0] for n in (1, 5, 50, 500)]
    assert scores == sorted(scores, key=lambda score: score or 0.0)
    assert len(set(scores)) == 4


def test_the_policy_is_found_by_its_name() -> None:
    assert policy_for(PolicySpec(name="ucb1")) is UCB1


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (PolicySpec(name="oracle"), "no policy 'oracle'; there are ucb1"),
        (PolicySpec(params={"exploration": -1.0}), "exploration is -1.0 and must be from 0 to"),
        (PolicySpec(params={"exploration": 1e308}), "exploration is 1e"),
        (PolicySpec(params={"explosion": 1.0}), "no parameter 'explosion'; it has exploration"),
    ],
)
def test_what_a_run_cannot_ask_for_is_refused_in_words(spec: PolicySpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        policy_for(spec)


@given(arms, st.floats(0, 1e6))
def test_every_accepted_exploration_gives_finite_scores(
    tried: list[ArmStatistics], exploration: float
) -> None:
    policy = policy_for(PolicySpec(params={"exploration": exploration}))
    scores = policy.score(tried, {"exploration": exploration})
    assert all(score is not None and math.isfinite(score) for score in scores)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_statistics_of_an_arm_are_the_count_and_the_mean(rewards: list[float]) -> None:
    arm = ArmStatistics()
    for reward in rewards:
        arm = arm.after(reward)
    assert arm.pulls == len(rewards)
    assert arm.mean == pytest.approx(sum(rewards) / len(rewards))


@pytest.mark.parametrize("reward", [-0.001, 1.001, math.nan])
def test_a_reward_outside_its_range_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match=r"is not in \[0, 1\]"):
        ArmStatistics().after(reward)
