"""Plans: applied as a whole or not at all; alphas ramped over the steps of the plan."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD

from esper.seed import Slot
from esper.topics.models import AdaptationDecision, Cull, Fossilize, Plant, SeedState
from esper.training.optimizer import OptimizerMembership, ParameterUntrained
from esper.training.seed_manager import PlanRefused, SeedManager
from tests.seed.hosts import host, images, sites_of
from tests.seed.kernels import awaken, kernel_for
from tests.training.grow_fixture import ZEROS, GrowingHost, Shape, adam, decision, planting

S = SeedState


def grown_host() -> GrowingHost:
    """Return a host with an active seed at fc1/0, a blending one at fc1/1, a fossil at conv/0."""
    growing = GrowingHost()
    growing.plant("fc1", 0, "linear-bottleneck")
    growing.plant("conv", 0, "squeeze-excite")
    growing.fossilize("conv", 0)
    growing.train(2)
    growing.plant("fc1", 1, "low-rank-skip", ramp_steps=50)
    growing.train(2)
    return growing


def everything(growing: GrowingHost) -> dict[str, Any]:
    """Return all state that a refused plan must not change."""
    return copy.deepcopy(
        {
            "model": growing.model.state_dict(),
            "optimizer": growing.optimizer.state_dict(),
            "slots": [slot for site in growing.sites.values() for slot in site.slots],
        }
    )


def assert_unchanged(growing: GrowingHost, before: dict[str, Any]) -> None:
    after = everything(growing)
    assert after["slots"] == before["slots"]
    torch.testing.assert_close(after["model"], before["model"], rtol=0, atol=0)
    torch.testing.assert_close(after["optimizer"], before["optimizer"], rtol=0, atol=0)


def possible(growing: GrowingHost) -> list[Plant | Cull]:
    """Return operations that can be applied now."""
    planted = growing.sites["fc1"].slots[0].planted
    assert planted is not None
    return [
        planting(growing.sites["conv"], 1, "conv-bottleneck"),
        Cull(site="fc1", slot=0, kernel_id=planted.kernel_id),
    ]


IMPOSSIBLE: dict[str, tuple[Callable[[GrowingHost], Any], str]] = {
    "unknown site": (
        lambda growing: Cull(site="fc9", slot=0, kernel_id=ZEROS),
        "there is no slot fc9/0",
    ),
    "unknown slot": (
        lambda growing: Cull(site="fc1", slot=3, kernel_id=ZEROS),
        "there is no slot fc1/3",
    ),
    "slot taken": (
        lambda growing: planting(growing.sites["fc1"], 1, "low-rank-skip"),
        "seed fc1/1 is blending and cannot become loading",
    ),
    "nothing to cull": (
        lambda growing: Cull(site="fc1", slot=2, kernel_id=ZEROS),
        "seed fc1/2 is dormant and cannot become culled",
    ),
    "kept for good": (
        lambda growing: Cull(site="conv", slot=0, kernel_id=ZEROS),
        "seed conv/0 is fossilized and cannot become culled",
    ),
    "still blending": (
        lambda growing: Fossilize(site="fc1", slot=1, kernel_id=ZEROS),
        "seed fc1/1 is blending and cannot become fossilized",
    ),
    "another kernel": (
        lambda growing: Cull(site="fc1", slot=1, kernel_id=ZEROS),
        r"seed fc1/1 holds kernel [0-9a-f]{12}, not 000000000000",
    ),
    "same seed twice": (
        lambda growing: planting(growing.sites["conv"], 1, "gated-conv"),
        "two operations of the plan name one slot",
    ),
    "same kernel twice": (
        lambda growing: planting(growing.sites["conv"], 2, "conv-bottleneck"),
        "plants one kernel twice; plant it in two decisions",
    ),
}


@pytest.mark.parametrize(("impossible", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("place", [0, 2], ids=["first", "last"])
def test_a_plan_with_one_impossible_operation_changes_nothing(
    impossible: Callable[[GrowingHost], Any], reason: str, place: int
) -> None:
    growing = grown_host()
    before = everything(growing)
    operations = possible(growing)
    operations.insert(place, impossible(growing))
    with pytest.raises(PlanRefused, match=reason):
        growing.apply(decision(*operations))
    assert_unchanged(growing, before)


def reserved(growing: GrowingHost) -> AdaptationDecision:
    """Return a reserved plan."""
    plan = decision(*possible(growing), name="late")
    growing.seed_manager.reserve(plan, growing.step)
    return plan


def assert_refused_whole(growing: GrowingHost, plan: AdaptationDecision, reason: str) -> None:
    """Assert that applying a reserved plan is refused, and that its release restores its slots."""
    kernels = growing.kernels_of(plan)
    before = everything(growing)
    with pytest.raises(PlanRefused, match=reason):
        growing.seed_manager.apply(plan, kernels, growing.step)
    assert_unchanged(growing, before)
    growing.seed_manager.release(plan, growing.step)
    assert growing.sites["conv"].slots[1].state is S.DORMANT


def test_a_plan_that_became_impossible_while_its_kernels_were_built_changes_nothing() -> None:
    growing = grown_host()
    plan = reserved(growing)
    growing.cull("fc1", 0)
    assert_refused_whole(growing, plan, "seed fc1/0 is culled and cannot become culled")


def test_a_plan_for_a_layer_that_is_not_trained_is_refused() -> None:
    growing = grown_host()
    plan = reserved(growing)
    OptimizerMembership(growing.optimizer).remove(growing.sites["conv"].layer.parameters())
    assert_refused_whole(growing, plan, "no parameter of conv is in the optimizer")


def test_a_kernel_for_another_site_is_refused() -> None:
    growing = GrowingHost()
    stranger = kernel_for("low-rank-skip", sites_of(host(), "fc2")["fc2"].signature)
    operation = Plant(
        site="fc1",
        slot=0,
        kernel_id=stranger.kernel_id,
        blueprint_id="low-rank-skip",
        alpha=1.0,
        ramp_steps=0,
    )
    plan = decision(operation)
    growing.seed_manager.reserve(plan, 0)
    with pytest.raises(PlanRefused, match=r"is for a site of .* fc1 is a site of"):
        growing.seed_manager.apply(plan, {stranger.kernel_id: stranger}, 0)
    assert growing.sites["fc1"].bank is None


def test_all_operations_of_a_plan_take_effect_together() -> None:
    growing = grown_host()
    growing.apply(decision(*possible(growing), name="both"))
    assert growing.sites["fc1"].slots[0].state is S.CULLED
    assert growing.sites["conv"].slots[1].state is S.ACTIVE
    assert {slot.index for slot, _ in growing.sites["fc1"].seeds()} == {1}


def test_alpha_rises_from_the_step_of_planting_to_its_target_and_the_seed_is_active() -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "low-rank-skip", alpha=0.8, ramp_steps=4)
    slot, seed = growing.sites["fc1"].slots[0], growing.sites["fc1"].seed(0)
    seen = [(slot.state, round(float(seed.alpha), 6))]
    for _ in range(4):
        growing.train()
        seen.append((slot.state, round(float(seed.alpha), 6)))
    assert seen == [
        (S.BLENDING, 0.2),
        (S.BLENDING, 0.4),
        (S.BLENDING, 0.6),
        (S.ACTIVE, 0.8),
        (S.ACTIVE, 0.8),
    ]


def test_alpha_rises_in_the_ramp_of_its_plan() -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "low-rank-skip", alpha=0.8, ramp_steps=4, ramp="cosine")
    slot, seed = growing.sites["fc1"].slots[0], growing.sites["fc1"].seed(0)
    seen = [float(seed.alpha)]
    for _ in range(3):
        assert slot.state is S.BLENDING
        growing.train()
        seen.append(float(seed.alpha))
    assert slot.state is S.ACTIVE
    half = 0.5**0.5
    expected = [0.8 * (1 - cosine) / 2 for cosine in (half, 0, -half, -1)]
    assert seen == pytest.approx(expected, abs=1e-7)
    assert seed.alpha == torch.tensor(0.8)


@pytest.mark.parametrize("ramp", ["linear", "cosine"])
def test_a_ramp_of_0_steps_reaches_its_target_in_the_first_step(ramp: Shape) -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "low-rank-skip", alpha=0.5, ramp_steps=0, ramp=ramp)
    assert growing.sites["fc1"].slots[0].state is S.ACTIVE
    assert float(growing.sites["fc1"].seed(0).alpha) == 0.5


def test_the_alpha_of_a_seed_culled_while_blending_does_not_change() -> None:
    growing = grown_host()
    seed = growing.sites["fc1"].seed(1)
    growing.cull("fc1", 1)
    alpha = float(seed.alpha)
    growing.train()
    assert float(seed.alpha) == alpha
    assert growing.sites["fc1"].slots[1].state is S.CULLED


def test_alpha_changes_in_place_so_that_nothing_is_recompiled() -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "low-rank-skip", ramp_steps=3)
    alpha = growing.sites["fc1"].seed(0).alpha
    growing.train(3)
    assert growing.sites["fc1"].seed(0).alpha is alpha


def test_a_culled_slot_stays_empty_until_its_embargo_ends() -> None:
    growing = grown_host()
    growing.cull("fc1", 0)
    slot = growing.sites["fc1"].slots[0]
    states = []
    for step in range(growing.step, growing.step + 5):
        growing.seed_manager.end_embargoes(step, embargo_steps=3)
        states.append(slot.state)
    assert states == [S.CULLED, S.CULLED, S.CULLED, S.DORMANT, S.DORMANT]


def test_a_fossilized_kernel_stays_and_trains() -> None:
    growing = grown_host()
    kernel = growing.sites["conv"].seed(0).kernel
    before = copy.deepcopy(kernel.state_dict())
    growing.train(2)
    assert growing.sites["conv"].slots[0].state is S.FOSSILIZED
    assert any(not torch.equal(value, before[name]) for name, value in kernel.state_dict().items())


def test_a_slot_records_the_operation_and_the_decision_that_filled_it() -> None:
    growing = GrowingHost()
    operation = planting(growing.sites["fc1"], 2, "low-rank-skip")
    plan = decision(operation, name="filling")
    growing.apply(plan)
    assert growing.sites["fc1"].slots[2] == Slot(
        "fc1", 2, S.ACTIVE, planted=operation, decision_id=plan.decision_id, since_step=0
    )


def test_culling_one_seed_does_not_change_the_other_of_its_site() -> None:
    growing = grown_host()
    awaken(growing.sites["fc1"].seed(1).kernel)
    kept = copy.deepcopy(growing.sites["fc1"].seed(1).state_dict())
    growing.cull("fc1", 0)
    torch.testing.assert_close(growing.sites["fc1"].seed(1).state_dict(), kept, rtol=0, atol=0)


def test_sites_that_the_optimizer_does_not_train_are_refused() -> None:
    model = host()
    optimizer = SGD(model.conv.parameters(), lr=0.1)
    with pytest.raises(ParameterUntrained, match="no parameter of fc1"):
        SeedManager(sites_of(model), OptimizerMembership(optimizer))
    SeedManager(sites_of(model, "conv"), OptimizerMembership(optimizer))
    SeedManager(sites_of(model), OptimizerMembership(adam(model)))


@pytest.mark.parametrize("ran", [False, True], ids=["never run", "run without an update"])
def test_a_kernel_culled_before_its_first_update_leaves_the_bits_of_a_run_without_growth(
    ran: bool,
) -> None:
    grown, never = GrowingHost(), GrowingHost()
    for growing in (grown, never):
        growing.train(2)
    random = torch.get_rng_state()
    grown.plant("fc1", 0, "gated-linear-unit")
    grown.plant("conv", 1, "conv-bottleneck")
    assert torch.equal(torch.get_rng_state(), random)
    if ran:
        with torch.no_grad():
            grown.model(images(4))
    grown.cull("fc1", 0)
    grown.cull("conv", 1)
    for growing in (grown, never):
        growing.train(3)
    expected = never.model.state_dict()
    assert list(grown.model.state_dict()) == list(expected)
    for name, value in grown.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    states = (growing.optimizer.state_dict()["state"] for growing in (grown, never))
    for one, other in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)
