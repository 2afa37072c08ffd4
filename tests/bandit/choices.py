"""Random things to choose from: kernels at sites, seats, situations and limits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from esper.bandit import (
    Constraint,
    Costs,
    History,
    Offers,
    Options,
    Seat,
    Situation,
    Standings,
    bans,
)
from topics.codec import sha256_of
from topics.models import KernelCost, Limits, LoadableKernel

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
    names = draw(st.sets(st.tuples(st.sampled_from(SITES), st.sampled_from(BLUEPRINTS))))
    costs = st.none() | st.builds(
        KernelCost, flops=st.just(1), latency_ratio=ratios, memory_ratio=ratios
    )
    return [
        kernel(
            site, name, draw(st.sampled_from(CATEGORIES)), draw(st.integers(1, 400)), draw(costs)
        )
        for site, name in sorted(names)
    ]


limits = st.builds(
    Limits,
    max_on_trial=st.integers(1, 3),
    max_params=st.none() | st.integers(1, 1000),
    max_memory_ratio=st.none() | st.floats(0.1, 8),
    max_latency_ratio=st.none() | st.floats(0.1, 8),
    forbidden=st.lists(st.sampled_from(BLUEPRINTS), max_size=1).map(tuple),
    forbidden_sites=st.lists(st.sampled_from(SITES), max_size=1).map(tuple),
    pinned=st.dictionaries(
        st.sampled_from(SITES), st.lists(st.sampled_from(BLUEPRINTS)).map(tuple), max_size=1
    ),
)

pairs = st.frozensets(st.tuples(st.sampled_from(SITES), st.sampled_from(CATEGORIES)), max_size=2)


class Case(NamedTuple):
    """A random choice: what there is, and what must not be broken."""

    limits: Limits
    situation: Situation
    options: Options
    embargoes: Sequence[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A choice at report 10, over sites of up to two seats each; one site may have none."""
    offered, bounds = draw(kernels()), draw(limits)
    slots = {site: draw(st.integers(1, 2)) for site in SITES[: draw(st.integers(2, 3))]}
    seats = tuple(Seat(site, slot) for site in sorted(slots) for slot in range(slots[site]))
    closed = draw(st.frozensets(st.sampled_from(seats)))
    embargoes = [draw(st.sampled_from([0, 10, 11, 30])) for _ in offered]
    full = {
        site: draw(st.sampled_from([Constraint.NO_SEED_FREE, Constraint.DORMANT_TIME]))
        for site in slots
        if all(Seat(site, slot) in closed for slot in range(slots[site]))
    }
    situation = Situation(
        seq=10,
        on_trial=draw(st.integers(0, 3)),
        used=Costs(draw(st.integers(0, 900)), draw(st.floats(0, 6)), draw(st.floats(0, 6))),
        everywhere=draw(st.sampled_from([Constraint.NONE] * 4 + [Constraint.DORMANT_TIME])),
        closed_sites=full,
        present=draw(pairs),
        rotating=draw(pairs),
        culled=frozenset(
            (each.site, each.kernel_id) for each in offered if draw(st.integers(0, 5)) == 0
        ),
    )
    histories = {
        place: History(pulls=draw(st.integers(1, 9)), mean=draw(st.floats(0, 1)))
        for place in range(len(offered))
        if draw(st.booleans())
    }
    options = Options(
        offers=Offers.of(offered, embargoes, bans(bounds, slots, offered)),
        arms=Standings.of(len(offered), histories, {}),
        seats=seats,
        places={seat: place for place, seat in enumerate(seats)},
        slots=slots,
        seeds=Standings.of(len(seats), {}, {}),
        trials=9,
        closed=closed,
        features=np.ones((len(offered), 3)),
    )
    return Case(bounds, situation, options, embargoes)
