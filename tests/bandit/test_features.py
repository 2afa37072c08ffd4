"""Features: what is known of an arm beforehand, in [0, 1] whatever the units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit.site_features import FEATURES, features
from esper.blueprint import shipped
from esper.topics.models import KernelCost, LoadableKernel, SiteFacts, SiteKind

FACTS = {
    "conv1": SiteFacts(kind=SiteKind.FEATURE_MAP, signature="map", depth=0.0, params=100),
    "fc1": SiteFacts(kind=SiteKind.VECTOR, signature="vector", depth=1.0, params=100),
}


def kernel(
    site: str, category: str = "conv", params: int = 10, latency: float | None = None
) -> LoadableKernel:
    return LoadableKernel(
        kernel_id="0" * 64,
        site=site,
        blueprint_id="tried",
        category=category,
        params=params,
        cost=KernelCost(flops=params, latency_ratio=latency, memory_ratio=latency),
    )


def named(*kernels: LoadableKernel, gradients: dict[str, float] | None = None) -> list[dict]:
    """The features of each kernel by name."""
    found = features(FACTS, gradients or {}, kernels)
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in found]


def test_a_site_gives_its_depth_and_its_kind() -> None:
    first, second = named(kernel("conv1"), kernel("fc1"))
    assert (first["bias"], first["depth"], second["depth"]) == (1.0, 0.0, 1.0)
    kinds = [f"kind-{kind}" for kind in ("vector", "sequence", "feature_map")]
    assert [first[kind] for kind in kinds] == [0.0, 0.0, 1.0]
    assert [second[kind] for kind in kinds] == [1.0, 0.0, 0.0]


def test_the_gradient_is_a_rank_among_sites_whatever_its_size() -> None:
    for scale in (1e-9, 1.0, 1e9):
        gradients = {"conv1": 3 * scale, "fc1": 7 * scale, "other": 5 * scale}
        first, second = named(kernel("conv1"), kernel("fc1"), gradients=gradients)
        assert (first["gradient"], second["gradient"]) == (0.0, 1.0)


def test_costs_are_ranks_among_the_kernels_of_a_site() -> None:
    small, large, alone = named(
        kernel("conv1", params=10, latency=0.5),
        kernel("conv1", params=20, latency=0.1),
        kernel("fc1", params=999, latency=9.0),
    )
    assert (small["params"], small["flops"], small["latency"]) == (0.0, 0.0, 1.0)
    assert (large["params"], large["flops"], large["latency"]) == (1.0, 1.0, 0.0)
    assert (alone["params"], alone["memory"]) == (0.5, 0.5)


def test_what_is_not_known_is_in_the_middle() -> None:
    (unknown,) = named(kernel("elsewhere"))
    assert (unknown["depth"], unknown["gradient"], unknown["latency"]) == (0.5, 0.5, 0.5)
    assert sum(value for name, value in unknown.items() if name.startswith("kind")) == 0.0


def bucket(category: str) -> int:
    (row,) = named(kernel("fc1", category))
    ones = [name for name in FEATURES if name.startswith("category") and row[name]]
    assert len(ones) == 1
    return int(ones[0].removeprefix("category-"))


def test_a_category_is_in_one_bucket_which_never_changes() -> None:
    """Old runs are audited with them."""
    assert [bucket(category) for category in ("attention", "conv", "mlp", "own")] == [5, 9, 13, 15]


def test_no_two_categories_of_the_shipped_catalog_share_a_bucket() -> None:
    categories = {blueprint.category for blueprint in shipped()}
    assert len({bucket(category) for category in categories}) == len(categories) > 5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["conv1", "fc1", "elsewhere"]),
            st.sampled_from(["conv", "mlp", "own"]),
            st.integers(0, 1 << 40),
            st.one_of(st.none(), st.floats(0, 1e6)),
        ),
        max_size=12,
    ),
    st.dictionaries(st.sampled_from(["conv1", "fc1", "other"]), st.floats(0, 1e300)),
)
def test_every_feature_of_every_arm_is_from_zero_to_one(
    arms: list[tuple[str, str, int, float | None]], gradients: dict[str, float]
) -> None:
    found = features(FACTS, gradients, [kernel(*arm) for arm in arms])
    assert found.shape == (len(arms), len(FEATURES))
    assert np.all((found >= 0.0) & (found <= 1.0))


def test_an_arm_has_the_same_features_wherever_it_stands_among_the_others() -> None:
    arms = [kernel("conv1", "conv", 5), kernel("fc1", "mlp", 7), kernel("conv1", "mlp", 9)]
    forward = features(FACTS, {"fc1": 1.0}, arms)
    backward = features(FACTS, {"fc1": 1.0}, arms[::-1])
    assert forward == pytest.approx(backward[::-1], abs=0.0)
