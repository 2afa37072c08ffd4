"""`Reweight`: another alpha for an active seed, ramped, and stored in snapshots."""

import json
from pathlib import Path

import pytest
import torch

from esper.store import open_store
from esper.topics.models import Cull, Fossilize, Plant, Reweight, SeedState
from esper.training import export_model
from esper.training.export import load_exported
from esper.training.lineage import RunHistory
from esper.training.seed_manager import PlanRefused
from tests.seed.hosts import images
from tests.seed.kernels import announced, awaken
from tests.training.grow_fixture import RUN, ZEROS, GrowingHost, decision

S = SeedState


def planted(*seeds: tuple[str, int, str], alpha: float = 0.5) -> GrowingHost:
    """Return a host with active seeds that change its output."""
    growing = GrowingHost()
    for site, slot, blueprint_id in seeds:
        awaken(growing.plant(site, slot, blueprint_id, alpha=alpha))
    growing.train(2)
    return growing


def reweight(
    growing: GrowingHost, site: str, slot: int, alpha: float, ramp_steps: int = 0
) -> Reweight:
    """Return the operation that gives a planted seed another alpha."""
    held = growing.sites[site].slots[slot].planted
    assert held is not None
    return Reweight(
        site=site, slot=slot, kernel_id=held.kernel_id, alpha=alpha, ramp_steps=ramp_steps
    )


def alpha_of(growing: GrowingHost, site: str = "fc1", slot: int = 0) -> float:
    return float(growing.sites[site].seed(slot).alpha)


@pytest.mark.parametrize(("to", "ways"), [(1.0, [0.625, 0.75, 0.875, 1.0]), (0.1, None)])
def test_alpha_is_ramped_linearly_from_its_present_value(
    to: float, ways: list[float] | None
) -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    slot = growing.sites["fc1"].slots[0]
    growing.apply(decision(reweight(growing, "fc1", 0, to, ramp_steps=4), name="raise"))
    seen, states = [alpha_of(growing)], [slot.state]
    for _ in range(3):
        growing.train()
        seen.append(alpha_of(growing))
        states.append(slot.state)
    assert seen == pytest.approx(ways or [0.4, 0.3, 0.2, 0.1])
    assert states == [S.BLENDING, S.BLENDING, S.BLENDING, S.ACTIVE]
    assert slot.alpha == to
    growing.train()
    assert alpha_of(growing) == pytest.approx(to)


def test_a_second_change_starts_at_the_alpha_of_the_first() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    growing.apply(decision(reweight(growing, "fc1", 0, 1.0), name="up"))
    growing.apply(decision(reweight(growing, "fc1", 0, 0.2, ramp_steps=2), name="down"))
    assert alpha_of(growing) == pytest.approx(0.6)
    growing.train()
    assert alpha_of(growing) == pytest.approx(0.2)


def test_optimizer_groups_and_state_do_not_change() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    members = [list(group["params"]) for group in growing.optimizer.param_groups]
    state = {parameter: dict(held) for parameter, held in growing.optimizer.state.items()}
    growing.apply(decision(reweight(growing, "fc1", 0, 1.0), name="raise"))
    assert [
        [id(member) for member in group["params"]] for group in growing.optimizer.param_groups
    ] == [[id(member) for member in group] for group in members]
    assert growing.optimizer.state.keys() == state.keys()
    for parameter, held in state.items():
        assert all(growing.optimizer.state[parameter][name] is held[name] for name in held)


def test_seeds_of_one_site_change_together_in_one_plan() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"), ("fc1", 1, "linear-bottleneck"))
    growing.apply(
        decision(
            reweight(growing, "fc1", 0, 0.7),
            reweight(growing, "fc1", 1, 0.3),
            name="share otherwise",
        )
    )
    assert alpha_of(growing, slot=0) == pytest.approx(0.7)
    assert alpha_of(growing, slot=1) == pytest.approx(0.3)


@pytest.mark.parametrize("place", [0, 1])
def test_a_plan_of_which_one_seed_cannot_be_reweighted_changes_no_alpha(place: int) -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    growing.plant("fc1", 1, "linear-bottleneck", alpha=0.5, ramp_steps=9)
    operations = [reweight(growing, "fc1", 0, 0.7), reweight(growing, "fc1", 1, 0.3)]
    operations = operations if place else operations[::-1]
    with pytest.raises(PlanRefused, match="seed fc1/1 is blending and cannot become blending"):
        growing.apply(decision(*operations, name="too early"))
    assert alpha_of(growing) == 0.5
    assert growing.sites["fc1"].slots[0].state is S.ACTIVE


def test_an_operation_that_names_another_kernel_is_refused() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    other = reweight(growing, "fc1", 0, 0.7).model_copy(update={"kernel_id": ZEROS})
    with pytest.raises(PlanRefused, match=r"holds kernel [0-9a-f]{12}, not 000000000000"):
        growing.apply(decision(other))


def test_a_seed_is_fossilized_only_at_its_new_alpha() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    growing.apply(decision(reweight(growing, "fc1", 0, 1.0, ramp_steps=3), name="raise"))
    held = reweight(growing, "fc1", 0, 1.0).kernel_id
    keep = Fossilize(site="fc1", slot=0, kernel_id=held)
    with pytest.raises(PlanRefused, match="is blending and cannot become fossilized"):
        growing.apply(decision(keep, name="too early"))
    growing.train(2)
    growing.apply(decision(keep, name="in time"))
    assert growing.sites["fc1"].slots[0].state is S.FOSSILIZED


def test_a_seed_culled_during_its_ramp_leaves_no_trace() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    growing.apply(decision(reweight(growing, "fc1", 0, 1.0, ramp_steps=3), name="raise"))
    held = reweight(growing, "fc1", 0, 1.0).kernel_id
    growing.apply(decision(Cull(site="fc1", slot=0, kernel_id=held), name="cull"))
    slot = growing.sites["fc1"].slots[0]
    assert (slot.planted, slot.reweighted, slot.alpha) == (None, None, 0.0)
    growing.train()
    slot.advance(S.DORMANT, growing.step)
    growing.plant("fc1", 0, "linear-bottleneck", alpha=0.8, ramp_steps=2)
    assert alpha_of(growing) == pytest.approx(0.4)


def test_a_restored_seed_manager_continues_at_the_same_alpha() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    growing.apply(decision(reweight(growing, "fc1", 0, 1.0, ramp_steps=4), name="raise"))
    growing.train()
    snapshots = [
        type(snapshot).model_validate_json(snapshot.model_dump_json())
        for snapshot in growing.seed_manager.snapshot()
    ]
    again = GrowingHost()
    again.seed_manager.restore(snapshots, {("fc1", 0): growing.sites["fc1"].seed(0).kernel})
    again.step = growing.step
    for one in (growing, again):
        one.train()
    assert alpha_of(again) == alpha_of(growing) == pytest.approx(0.875)
    assert again.sites["fc1"].slots[0] == growing.sites["fc1"].slots[0]


def test_a_slot_snapshot_without_reweighting_fields_is_read() -> None:
    growing = planted(("fc1", 0, "low-rank-skip"))
    (snapshot,) = growing.seed_manager.snapshot()
    stored = json.loads(snapshot.model_dump_json())
    del stored["reweighted"], stored["alpha_before"]
    assert type(snapshot).model_validate(stored | {"state": snapshot.state}) == snapshot


@pytest.mark.parametrize("blueprint_id", ["low-rank-skip", "gated-linear-unit"])
def test_the_export_of_a_reweighted_fossil_computes_the_same(
    blueprint_id: str, tmp_path: Path
) -> None:
    """The first blueprint merges into its layer, the second stays beside it."""
    growing = planted(("fc1", 0, blueprint_id))
    growing.apply(decision(reweight(growing, "fc1", 0, 0.75), name="raise"))
    growing.train(2)
    before = growing.model(images(9))
    held = growing.sites["fc1"].slots[0].planted
    assert isinstance(held, Plant)
    growing.fossilize("fc1", 0)
    torch.testing.assert_close(growing.model(images(9)), before, rtol=0, atol=1e-5)
    store = open_store(f"file:{tmp_path / 'store'}")
    ready = announced(store, blueprint_id, growing.sites["fc1"].signature)
    run_history = RunHistory(kernels={held.kernel_id: ready})
    export_model(growing.model, growing.sites, images(1), run_history, RUN, tmp_path / "grown")
    growing.model.eval()
    torch.testing.assert_close(
        load_exported(tmp_path / "grown")(images(9)), growing.model(images(9)), rtol=0, atol=1e-5
    )
    (grown,) = json.loads((tmp_path / "grown" / "lineage.json").read_text())["seeds"]
    assert grown["alpha"] == 0.75
