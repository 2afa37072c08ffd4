"""Strategies for selector inputs: kernels at sites, slots, situations and limits."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from hypothesis import strategies as st

from esper.bandit import (
    ArmFeatures,
    ArmHistory,
    ArmStats,
    Constraint,
    Costs,
    SelectorInput,
    Situation,
    SlotId,
    permanent_codes,
)
from esper.topics.codec import sha256_of
from esper.topics.models import KernelCost, LoadableKernel, SelectionLimits

T = TypeVar("T")

SITES = ("conv", "fc", "out")
BLUEPRINTS = ("a", "b", "c", "d")
CATEGORIES = ("gate", "skip")

ratios = st.none() | st.floats(0, 4)


def kernel(
    site: str, blueprint: str, category: str, params: int = 100, cost: KernelCost | None = None
) -> LoadableKernel:
    """A kernel on offer."""
    return LoadableKernel(
        kernel_id=sha256_of(f"{site}/{blueprint}".encode()),
        site=site,
        blueprint_id=blueprint,
        category=category,
        params=params,
        cost=cost,
    )


@st.composite
def kernels(draw: st.DrawFn) -> list[LoadableKernel]:
    """Some kernels, in the order of (site, blueprint)."""
    every = [(site, blueprint) for site in SITES for blueprint in BLUEPRINTS]
    names = draw(seldom(set(every), st.sets(st.sampled_from(every))))
    costs = st.none() | st.builds(
        KernelCost, flops=st.just(1), latency_ratio=ratios, memory_ratio=ratios
    )
    return [
        kernel(
            site, name, draw(st.sampled_from(CATEGORIES)), draw(st.integers(1, 400)), draw(costs)
        )
        for site, name in sorted(names)
    ]


def seldom(usual: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Something else now and then: where all is constrained, nothing is left to choose."""
    return st.sampled_from(range(8)).flatmap(lambda number: st.just(usual) if number else other)


limits = st.builds(
    SelectionLimits,
    max_on_trial=st.integers(1, 3),
    max_params=seldom(None, st.integers(1, 1000)),
    max_memory_ratio=seldom(None, st.floats(0.1, 8)),
    max_latency_ratio=seldom(None, st.floats(0.1, 8)),
    forbidden=seldom((), st.sampled_from(BLUEPRINTS).map(lambda name: (name,))),
    forbidden_sites=seldom((), st.sampled_from(SITES).map(lambda name: (name,))),
    pinned=seldom(
        {},
        st.dictionaries(st.sampled_from(SITES), st.lists(st.sampled_from(BLUEPRINTS)).map(tuple)),
    ),
)

pairs = seldom(
    frozenset(),
    st.frozensets(st.tuples(st.sampled_from(SITES), st.sampled_from(CATEGORIES)), max_size=2),
)


class Case(NamedTuple):
    """A random choice: what there is, and what must not be broken."""

    limits: SelectionLimits
    situation: Situation
    options: SelectorInput
    embargoes: Sequence[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A choice at report 10, over sites with up to two slots; one site may have no kernel."""
    offered, bounds = draw(kernels()), draw(limits)
    slots = {site: draw(st.integers(1, 2)) for site in SITES[: draw(st.integers(2, 3))]}
    slot_ids = tuple(SlotId(site, slot) for site in sorted(slots) for slot in range(slots[site]))
    closed = draw(st.frozensets(st.sampled_from(slot_ids)))
    embargoes = [draw(seldom(0, st.sampled_from([10, 11, 30]))) for _ in offered]
    full = {
        site: draw(st.sampled_from([Constraint.NO_SEED_FREE, Constraint.DORMANT_TIME]))
        for site in slots
        if all(SlotId(site, slot) in closed for slot in range(slots[site]))
    }
    situation = Situation(
        seq=10,
        on_trial=draw(seldom(0, st.integers(0, 3))),
        used=Costs(draw(st.integers(0, 900)), draw(st.floats(0, 6)), draw(st.floats(0, 6))),
        everywhere=draw(seldom(Constraint.NONE, st.just(Constraint.DORMANT_TIME))),
        closed_sites=full,
        present=draw(pairs),
        rotating=draw(pairs),
        culled=frozenset(
            (kernel.site, kernel.kernel_id) for kernel in offered if draw(st.integers(0, 5)) == 0
        ),
    )
    histories = {
        index: ArmHistory(pulls=draw(st.integers(1, 9)), mean=draw(st.floats(0, 1)))
        for index in range(len(offered))
        if draw(st.booleans())
    }
    options = SelectorInput(
        arm_features=ArmFeatures.of(offered, embargoes, permanent_codes(bounds, slots, offered)),
        arm_stats=ArmStats.of(len(offered), histories, {}),
        slot_ids=slot_ids,
        slot_index={slot_id: index for index, slot_id in enumerate(slot_ids)},
        slots=slots,
        slot_stats=ArmStats.of(len(slot_ids), {}, {}),
        trials=9,
        closed=closed,
        features=np.ones((len(offered), 3)),
    )
    return Case(bounds, situation, options, embargoes)
