"""Ranks of cost: a pure order, whatever the scale of what is compared."""

from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import cost_ranks
from esper.topics.models import KernelCost, LoadableKernel


def kernel(params: int, cost: KernelCost | None = None) -> LoadableKernel:
    return LoadableKernel(
        kernel_id="0" * 64,
        site="fc1",
        blueprint_id="tried",
        category="linear",
        params=params,
        cost=cost,
    )


def cost(flops: int, latency: float | None = None) -> KernelCost:
    return KernelCost(flops=flops, latency_ratio=latency, memory_ratio=latency)


def test_the_cheapest_is_first_and_the_dearest_last() -> None:
    ranks = cost_ranks([kernel(9, cost(300)), kernel(1, cost(100)), kernel(5, cost(200))])
    assert [rank.params for rank in ranks] == [1.0, 0.0, 0.5]
    assert [rank.flops for rank in ranks] == [1.0, 0.0, 0.5]


def test_equal_costs_have_equal_ranks_in_the_middle() -> None:
    ranks = cost_ranks([kernel(1), kernel(2), kernel(2), kernel(3)])
    assert [rank.params for rank in ranks] == [0.0, 0.5, 0.5, 1.0]


def test_a_cost_that_is_not_known_has_no_rank_and_changes_none() -> None:
    ranks = cost_ranks([kernel(1, cost(1, 0.2)), kernel(1), kernel(1, cost(1, 0.4))])
    assert [rank.latency for rank in ranks] == [0.0, None, 1.0]


def test_a_kernel_alone_is_in_the_middle() -> None:
    (rank,) = cost_ranks([kernel(7, cost(1, 1.0))])
    assert (rank.params, rank.flops, rank.latency, rank.memory) == (0.5, 0.5, 0.5, 0.5)


@given(st.lists(st.integers(0, 50), min_size=2), st.integers(1, 9))
def test_ranks_depend_on_order_alone(params: list[int], factor: int) -> None:
    ranks = [rank.params for rank in cost_ranks([kernel(value) for value in params])]
    scaled = [rank.params for rank in cost_ranks([kernel(factor * value) for value in params])]
    assert ranks == scaled
    assert abs(sum(rank or 0.0 for rank in ranks) - len(params) / 2) < 1e-9
