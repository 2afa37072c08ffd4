"""Priors: what is believed of a kernel before its first trial, as trials that never were."""

import pytest

from esper.bandit import NO_PRIOR, Prior, priors_for
from esper.topics.models import KernelCost, Priors, RememberedArm
from tests.bandit.choices import kernel

SITES = {"conv": "feature_map:4x8x8>4x8x8", "fc": "vector:8>8"}
NO_DISCOUNT = Priors(cost=0.0, memory=0.0, category=0.0)


def remembered(blueprint: str, weight: float, mean: float) -> RememberedArm:
    """What earlier runs found at sites like `conv`."""
    return RememberedArm(signature=SITES["conv"], blueprint_id=blueprint, weight=weight, mean=mean)


def test_where_nothing_is_worth_anything_nothing_is_believed() -> None:
    offered = [kernel("conv", "a", "gate")]
    assert priors_for(offered, SITES, [remembered("a", 5, 0.9)], NO_DISCOUNT) == [NO_PRIOR]


def test_of_kernels_at_a_site_the_cheapest_is_believed_the_better_try() -> None:
    params = {"a": 9, "b": 1, "c": 5}
    offered = [kernel("conv", name, name, params=params[name]) for name in "abc"]
    cheap = NO_DISCOUNT.model_copy(update={"cost": 2.0})
    assert priors_for(offered, SITES, [], cheap) == [
        Prior(2.0, pytest.approx(0.4)),
        Prior(2.0, pytest.approx(0.6)),
        Prior(2.0, pytest.approx(0.5)),
    ]


def test_the_time_and_memory_that_were_measured_count_as_its_parameters_do() -> None:
    fast = KernelCost(flops=1, latency_ratio=0.1, memory_ratio=0.1)
    slow = KernelCost(flops=1, latency_ratio=0.9, memory_ratio=0.9)
    offered = [
        kernel("conv", "a", "a", params=9, cost=fast),
        kernel("conv", "b", "b", params=1, cost=slow),
    ]
    first, second = priors_for(offered, SITES, [], NO_DISCOUNT.model_copy(update={"cost": 1.0}))
    assert first.mean == pytest.approx(0.5 + 0.2 * (0.5 - 1 / 3))
    assert second.mean == pytest.approx(0.5 + 0.2 * (0.5 - 2 / 3))


def test_what_earlier_runs_found_counts_up_to_its_cap_and_only_at_like_sites() -> None:
    offered = [kernel("conv", "a", "gate"), kernel("conv", "b", "skip"), kernel("fc", "a", "gate")]
    memory = [remembered("a", 5.0, 0.9), remembered("b", 0.5, 0.2)]
    worth = NO_DISCOUNT.model_copy(update={"memory": 2.0})
    assert priors_for(offered, SITES, memory, worth) == [
        Prior(2.0, 0.9),
        Prior(0.5, 0.2),
        NO_PRIOR,
    ]


def test_a_blueprint_never_tried_is_believed_as_the_others_of_its_category() -> None:
    offered = [kernel("conv", name, "gate") for name in "abc"] + [kernel("conv", "d", "skip")]
    memory = [remembered("a", 3.0, 0.9), remembered("b", 1.0, 0.5)]
    worth = NO_DISCOUNT.model_copy(update={"category": 0.5})
    assert priors_for(offered, SITES, memory, worth) == [
        Prior(0.5, 0.5),
        Prior(0.5, 0.9),
        Prior(0.5, pytest.approx(0.8)),
        NO_PRIOR,
    ]


def test_beliefs_join_as_trials_do() -> None:
    offered = [kernel("conv", "a", "gate")]
    worth = NO_DISCOUNT.model_copy(update={"cost": 1.0, "memory": 3.0})
    assert priors_for(offered, SITES, [remembered("a", 9.0, 0.9)], worth) == [
        Prior(4.0, pytest.approx((0.5 + 3 * 0.9) / 4))
    ]


def test_how_much_cost_says_is_the_runs_to_tell() -> None:
    params = {"cheap": 10, "dear": 20}
    offered = [kernel("conv", name, name, params=params[name]) for name in params]
    worth = NO_DISCOUNT.model_copy(update={"cost": 1.0, "cost_spread": 0.05})
    assert [prior.mean for prior in priors_for(offered, SITES, [], worth)] == [
        pytest.approx(0.525),
        pytest.approx(0.475),
    ]


def test_priors_of_earlier_runs_keep_their_bytes() -> None:
    assert "cost_spread" not in Priors().model_dump()
    assert Priors().cost_spread == 0.2
