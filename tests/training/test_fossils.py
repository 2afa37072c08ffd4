"""Fossilized seeds: merged into the layer if that computes the same, otherwise beside it."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from esper.store import open_store
from esper.topics.models import (
    Cull,
    Fossilize,
    KernelReady,
    PolicySpec,
    RunConfig,
    SeedState,
    SeedStatus,
)
from esper.training import export_model
from esper.training.export import load_exported
from esper.training.lineage import RunHistory
from esper.training.optimizer import OptimizerMembership
from esper.training.probe import Probe, ProbeResult
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused
from tests.seed.hosts import Host, images, labels
from tests.seed.kernels import announced, awaken
from tests.training.grow_fixture import RUN, GrowingHost, decision, planting

S = SeedState
WITHIN = 1e-6
"""Tolerance of outputs after a merge in float32, relative to the largest output."""

AFFINE = [
    ("fc1", "low-rank-skip"),
    ("fc1", "low-rank-skip-wide"),
    ("fc1", "identity"),
    ("conv", "identity"),
]


def trained(site: str, blueprint_id: str, *, alpha: float = 0.6) -> GrowingHost:
    """Return a host with one active seed that changes its output."""
    growing = GrowingHost()
    awaken(growing.plant(site, 0, blueprint_id, alpha=alpha, ramp_steps=2))
    growing.train(3)
    return growing


def output(growing: GrowingHost) -> Tensor:
    with torch.no_grad():
        logits: Tensor = growing.model(images(9))
    return logits


def assert_as_before(growing: GrowingHost, before: Tensor) -> None:
    within = WITHIN * float(before.abs().max())
    torch.testing.assert_close(output(growing), before, rtol=0, atol=within)


def gone_from(growing: GrowingHost, parameters: list[nn.Parameter]) -> bool:
    """Return whether neither the model nor the optimizer holds these parameters."""
    optimizer = growing.optimizer
    held = [*growing.model.parameters(), *optimizer.state]
    held += [one for group in optimizer.param_groups for one in group["params"]]
    return {id(one) for one in parameters}.isdisjoint(map(id, held))


@pytest.mark.parametrize(("site", "blueprint_id"), AFFINE)
def test_an_affine_kernel_merges_into_its_layer_and_the_model_computes_the_same(
    site: str, blueprint_id: str
) -> None:
    growing = trained(site, blueprint_id)
    kernels = list(growing.sites[site].seed(0).parameters())
    before = output(growing)
    growing.fossilize(site, 0)
    assert_as_before(growing, before)
    assert growing.sites[site].bank is None
    assert "forward" not in vars(growing.sites[site].layer)
    assert gone_from(growing, kernels)
    assert [name for name, _ in growing.model.named_modules()] == ["", "conv", "fc1", "fc2"]


def test_a_layer_with_a_merged_kernel_trains_in_the_same_optimizer() -> None:
    growing = trained("fc1", "low-rank-skip")
    weight = growing.model.fc1.weight
    growing.fossilize("fc1", 0)
    merged = weight.detach().clone()
    growing.train()
    assert growing.model.fc1.weight is weight
    assert not torch.equal(weight, merged)
    assert [id(one) for one in growing.optimizer.param_groups[0]["params"]] == [
        id(one) for one in growing.model.parameters()
    ]


def test_the_slot_of_a_merged_kernel_is_spent_and_records_the_kernel() -> None:
    growing = trained("fc1", "low-rank-skip")
    slot, kernel = growing.sites["fc1"].slots[0], growing.sites["fc1"].seed(0).kernel
    planted, decision_id = slot.planted, slot.decision_id
    growing.fossilize("fc1", 0)
    assert (slot.state, slot.merged_sha256) == (S.FOSSILIZED, kernel.sha256)
    assert (slot.planted, slot.decision_id) == (planted, decision_id)
    with pytest.raises(PlanRefused, match="fc1/0 is fossilized and cannot become loading"):
        growing.plant("fc1", 0, "identity")


# -- what stays beside its layer ----------------------------------------------------------------


def not_affine() -> GrowingHost:
    return trained("fc1", "gated-linear-unit")


def beside_one_that_reads_h() -> GrowingHost:
    growing = trained("fc1", "low-rank-skip")
    awaken(growing.plant("fc1", 1, "linear-bottleneck", ramp_steps=9))
    return growing


def frozen() -> GrowingHost:
    growing = trained("fc1", "low-rank-skip")
    growing.model.fc1.weight.requires_grad_(False)
    return growing


def not_all_trained() -> GrowingHost:
    def adam_without_the_weight(model: nn.Module) -> Adam:
        assert isinstance(model, Host)
        return Adam([*model.conv.parameters(), model.fc1.bias])

    growing = GrowingHost(adam_without_the_weight)
    awaken(growing.plant("fc1", 0, "low-rank-skip"))
    return growing


BESIDE: dict[str, tuple[Callable[[], GrowingHost], str]] = {
    "not affine": (not_affine, "layer_norm .norm. is not an affine map"),
    "another seed reads h": (beside_one_that_reads_h, "another seed of fc1 reads h"),
    "a frozen layer": (frozen, "fc1 is frozen"),
    "a weight that the optimizer leaves alone": (
        not_all_trained,
        "the optimizer does not train all of fc1",
    ),
}


@pytest.mark.parametrize(("make", "reason"), BESIDE.values(), ids=BESIDE)
def test_a_kernel_that_cannot_merge_stays_for_good_and_no_bit_changes(
    make: Callable[[], GrowingHost], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    growing = make()
    slot, kernel = growing.sites["fc1"].slots[0], growing.sites["fc1"].seed(0).kernel
    before = output(growing)
    with caplog.at_level(logging.INFO, "esper"):
        growing.fossilize("fc1", 0)
    assert torch.equal(output(growing), before)
    assert (slot.state, slot.merged_sha256) == (S.FOSSILIZED, None)
    assert growing.sites["fc1"].seed(0).kernel is kernel
    assert not gone_from(growing, list(kernel.parameters()))
    (message,) = caplog.messages
    assert re.match(f"seed fc1/0 stays beside its layer: .*{reason}", message)


# -- among other seeds --------------------------------------------------------------------------


def test_one_plan_may_cull_a_seed_that_reads_h_and_merge_another() -> None:
    growing = beside_one_that_reads_h()
    growing.sites["fc1"].seed(1).alpha.zero_()
    before = output(growing)
    kept, culled = (growing.sites["fc1"].slots[at].planted for at in (0, 1))
    assert kept is not None
    assert culled is not None
    growing.apply(
        decision(
            Cull(site="fc1", slot=1, kernel_id=culled.kernel_id),
            Fossilize(site="fc1", slot=0, kernel_id=kept.kernel_id),
            name="both",
        )
    )
    assert_as_before(growing, before)
    assert growing.sites["fc1"].bank is None


def test_one_plan_may_fossilize_a_kernel_and_plant_another_at_its_site() -> None:
    growing = trained("fc1", "low-rank-skip")
    before = output(growing)
    kept = growing.sites["fc1"].slots[0].planted
    assert kept is not None
    growing.apply(
        decision(
            Fossilize(site="fc1", slot=0, kernel_id=kept.kernel_id),
            planting(growing.sites["fc1"], 1, "linear-bottleneck"),
            name="both",
        )
    )
    assert_as_before(growing, before)
    assert [slot.index for slot, _ in growing.sites["fc1"].seeds()] == [1]
    growing.train(2)
    assert growing.sites["fc1"].slots[0].merged_sha256 is not None


def test_another_optimizer_trains_a_layer_with_a_merged_kernel() -> None:
    growing = trained("fc1", "low-rank-skip")
    growing.fossilize("fc1", 0)
    growing.plant("fc1", 1, "linear-bottleneck")
    growing.optimizer = SGD(growing.model.parameters(), lr=0.1)
    growing.seed_manager.set_optimizer(OptimizerMembership(growing.optimizer))
    before = growing.model.fc1.weight.detach().clone()
    growing.train()
    assert not torch.equal(growing.model.fc1.weight, before)


# -- reports ------------------------------------------------------------------------------------


def reported(growing: GrowingHost, measured: ProbeResult) -> list[SeedStatus]:
    run_config = RunConfig(
        seed=0, slots={"fc1": 3}, policy=PolicySpec(), host_params=0, report_interval_steps=20
    )
    report = Reporter(RUN, run_config).next(
        growing.sites, measured, step=growing.step, train_loss=None
    )
    return list(report.seeds)


def test_a_merged_kernel_is_reported_as_fossilized_with_0_parameters() -> None:
    growing = trained("fc1", "low-rank-skip", alpha=0.5)
    kernel_id = growing.sites["fc1"].seed(0).kernel.kernel_id
    growing.fossilize("fc1", 0)
    growing.train(4)
    assert reported(growing, ProbeResult(0.5, {})) == [
        SeedStatus(
            site="fc1",
            slot=0,
            state=S.FOSSILIZED,
            kernel_id=kernel_id,
            blueprint_id="low-rank-skip",
            alpha=0.5,
            params=0,
            age_steps=4,
        )
    ]


def test_the_probe_measures_a_seed_on_trial_beside_a_merged_kernel() -> None:
    growing = trained("fc1", "low-rank-skip")
    growing.fossilize("fc1", 0)
    awaken(growing.plant("fc1", 1, "linear-bottleneck"))
    batch = images(20), labels(20)
    measured = Probe(batch, F.cross_entropy).measure(growing.model, growing.sites)
    assert list(measured.contributions) == [("fc1", 1)]
    assert [one.contribution for one in reported(growing, measured)] == [
        None,
        measured.contributions["fc1", 1],
    ]


# -- what is exported ---------------------------------------------------------------------------


def exported(
    growing: GrowingHost, folder: Path, *blueprint_ids: str
) -> tuple[Path, list[KernelReady]]:
    """Export to a folder; return the folder and the announcements of the kernels."""
    store = open_store(f"file:{folder / 'kernels'}")
    signature = growing.sites["fc1"].signature
    ready = [announced(store, blueprint_id, signature) for blueprint_id in blueprint_ids]
    run_history = RunHistory(kernels={kernel.kernel_id: kernel for kernel in ready})
    out = export_model(growing.model, growing.sites, images(1), run_history, RUN, folder / "out")
    return out, ready


def test_the_export_of_a_layer_with_a_merged_kernel_is_the_plain_layer(tmp_path: Path) -> None:
    growing = trained("fc1", "low-rank-skip")
    before = output(growing)
    growing.fossilize("fc1", 0)
    folder, _ = exported(growing, tmp_path, "low-rank-skip")
    source = (folder / "model.py").read_text()
    assert "self.fc1 = nn.Linear(" in source
    assert not re.search("Site_|Kernel_|alpha", source)
    with torch.no_grad():
        found = load_exported(folder)(images(9))
    torch.testing.assert_close(found, before, rtol=0, atol=WITHIN * float(before.abs().max()))


def test_the_lineage_lists_merged_kernels_and_kernels_beside_their_layer(tmp_path: Path) -> None:
    growing = trained("fc1", "low-rank-skip")
    growing.fossilize("fc1", 0)
    growing.plant("fc1", 1, "linear-bottleneck")
    folder, ready = exported(growing, tmp_path, "low-rank-skip", "linear-bottleneck")
    expected = [
        {
            "site": "fc1",
            "slot": slot,
            "alpha": alpha,
            **kernel.model_dump(mode="json"),
        }
        for slot, (kernel, alpha) in enumerate(zip(ready, (0.6, 1.0), strict=True))
    ]
    expected[0] |= {"merged": True, "alpha": 0.6}
    assert json.loads((folder / "lineage.json").read_bytes())["seeds"] == expected
