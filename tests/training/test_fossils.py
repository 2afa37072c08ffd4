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
from tests.training.grow_fixture import RUN, Plot, decision, planting

S = SeedState
WITHIN = 1e-6
"""Tolerance of outputs after a merge in float32, relative to the largest output."""

AFFINE = [
    ("fc1", "low-rank-skip"),
    ("fc1", "low-rank-skip-wide"),
    ("fc1", "identity"),
    ("conv", "identity"),
]


def trained(site: str, blueprint_id: str, *, alpha: float = 0.6) -> Plot:
    """Return a host with one active seed that changes its output."""
    plot = Plot()
    awaken(plot.plant(site, 0, blueprint_id, alpha=alpha, ramp_steps=2))
    plot.train(3)
    return plot


def output(plot: Plot) -> Tensor:
    with torch.no_grad():
        logits: Tensor = plot.model(images(9))
    return logits


def assert_as_before(plot: Plot, before: Tensor) -> None:
    within = WITHIN * float(before.abs().max())
    torch.testing.assert_close(output(plot), before, rtol=0, atol=within)


def gone_from(plot: Plot, parameters: list[nn.Parameter]) -> bool:
    """Return whether neither the model nor the optimizer holds these parameters."""
    optimizer = plot.optimizer
    held = [*plot.model.parameters(), *optimizer.state]
    held += [one for group in optimizer.param_groups for one in group["params"]]
    return {id(one) for one in parameters}.isdisjoint(map(id, held))


@pytest.mark.parametrize(("site", "blueprint_id"), AFFINE)
def test_an_affine_kernel_merges_into_its_layer_and_the_model_computes_the_same(
    site: str, blueprint_id: str
) -> None:
    plot = trained(site, blueprint_id)
    kernels = list(plot.sites[site].seed(0).parameters())
    before = output(plot)
    plot.fossilize(site, 0)
    assert_as_before(plot, before)
    assert plot.sites[site].bank is None
    assert "forward" not in vars(plot.sites[site].layer)
    assert gone_from(plot, kernels)
    assert [name for name, _ in plot.model.named_modules()] == ["", "conv", "fc1", "fc2"]


def test_a_layer_with_a_merged_kernel_trains_in_the_same_optimizer() -> None:
    plot = trained("fc1", "low-rank-skip")
    weight = plot.model.fc1.weight
    plot.fossilize("fc1", 0)
    merged = weight.detach().clone()
    plot.train()
    assert plot.model.fc1.weight is weight
    assert not torch.equal(weight, merged)
    assert [id(one) for one in plot.optimizer.param_groups[0]["params"]] == [
        id(one) for one in plot.model.parameters()
    ]


def test_the_slot_of_a_merged_kernel_is_spent_and_records_the_kernel() -> None:
    plot = trained("fc1", "low-rank-skip")
    slot, kernel = plot.sites["fc1"].slots[0], plot.sites["fc1"].seed(0).kernel
    planted, decision_id = slot.planted, slot.decision_id
    plot.fossilize("fc1", 0)
    assert (slot.state, slot.merged_sha256) == (S.FOSSILIZED, kernel.sha256)
    assert (slot.planted, slot.decision_id) == (planted, decision_id)
    with pytest.raises(PlanRefused, match="fc1/0 is fossilized and cannot become loading"):
        plot.plant("fc1", 0, "identity")


# -- what stays beside its layer ----------------------------------------------------------------


def not_affine() -> Plot:
    return trained("fc1", "gated-linear-unit")


def beside_one_that_reads_h() -> Plot:
    plot = trained("fc1", "low-rank-skip")
    awaken(plot.plant("fc1", 1, "linear-bottleneck", ramp_steps=9))
    return plot


def frozen() -> Plot:
    plot = trained("fc1", "low-rank-skip")
    plot.model.fc1.weight.requires_grad_(False)
    return plot


def not_all_trained() -> Plot:
    def adam_without_the_weight(model: nn.Module) -> Adam:
        assert isinstance(model, Host)
        return Adam([*model.conv.parameters(), model.fc1.bias])

    plot = Plot(adam_without_the_weight)
    awaken(plot.plant("fc1", 0, "low-rank-skip"))
    return plot


BESIDE: dict[str, tuple[Callable[[], Plot], str]] = {
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
    make: Callable[[], Plot], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    plot = make()
    slot, kernel = plot.sites["fc1"].slots[0], plot.sites["fc1"].seed(0).kernel
    before = output(plot)
    with caplog.at_level(logging.INFO, "esper"):
        plot.fossilize("fc1", 0)
    assert torch.equal(output(plot), before)
    assert (slot.state, slot.merged_sha256) == (S.FOSSILIZED, None)
    assert plot.sites["fc1"].seed(0).kernel is kernel
    assert not gone_from(plot, list(kernel.parameters()))
    (message,) = caplog.messages
    assert re.match(f"seed fc1/0 stays beside its layer: .*{reason}", message)


# -- among other seeds --------------------------------------------------------------------------


def test_one_plan_may_cull_a_seed_that_reads_h_and_merge_another() -> None:
    plot = beside_one_that_reads_h()
    plot.sites["fc1"].seed(1).alpha.zero_()
    before = output(plot)
    kept, culled = (plot.sites["fc1"].slots[at].planted for at in (0, 1))
    assert kept is not None
    assert culled is not None
    plot.apply(
        decision(
            Cull(site="fc1", slot=1, kernel_id=culled.kernel_id),
            Fossilize(site="fc1", slot=0, kernel_id=kept.kernel_id),
            name="both",
        )
    )
    assert_as_before(plot, before)
    assert plot.sites["fc1"].bank is None


def test_one_plan_may_fossilize_a_kernel_and_plant_another_at_its_site() -> None:
    plot = trained("fc1", "low-rank-skip")
    before = output(plot)
    kept = plot.sites["fc1"].slots[0].planted
    assert kept is not None
    plot.apply(
        decision(
            Fossilize(site="fc1", slot=0, kernel_id=kept.kernel_id),
            planting(plot.sites["fc1"], 1, "linear-bottleneck"),
            name="both",
        )
    )
    assert_as_before(plot, before)
    assert [slot.index for slot, _ in plot.sites["fc1"].seeds()] == [1]
    plot.train(2)
    assert plot.sites["fc1"].slots[0].merged_sha256 is not None


def test_another_optimizer_trains_a_layer_with_a_merged_kernel() -> None:
    plot = trained("fc1", "low-rank-skip")
    plot.fossilize("fc1", 0)
    plot.plant("fc1", 1, "linear-bottleneck")
    plot.optimizer = SGD(plot.model.parameters(), lr=0.1)
    plot.seed_manager.set_optimizer(OptimizerMembership(plot.optimizer))
    before = plot.model.fc1.weight.detach().clone()
    plot.train()
    assert not torch.equal(plot.model.fc1.weight, before)


# -- reports ------------------------------------------------------------------------------------


def reported(plot: Plot, measured: ProbeResult) -> list[SeedStatus]:
    run_config = RunConfig(
        seed=0, slots={"fc1": 3}, policy=PolicySpec(), host_params=0, report_interval_steps=20
    )
    report = Reporter(RUN, run_config).next(plot.sites, measured, step=plot.step, train_loss=None)
    return list(report.seeds)


def test_a_merged_kernel_is_reported_as_fossilized_with_0_parameters() -> None:
    plot = trained("fc1", "low-rank-skip", alpha=0.5)
    kernel_id = plot.sites["fc1"].seed(0).kernel.kernel_id
    plot.fossilize("fc1", 0)
    plot.train(4)
    assert reported(plot, ProbeResult(0.5, {})) == [
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
    plot = trained("fc1", "low-rank-skip")
    plot.fossilize("fc1", 0)
    awaken(plot.plant("fc1", 1, "linear-bottleneck"))
    batch = images(20), labels(20)
    measured = Probe(batch, F.cross_entropy).measure(plot.model, plot.sites)
    assert list(measured.contributions) == [("fc1", 1)]
    assert [one.contribution for one in reported(plot, measured)] == [
        None,
        measured.contributions["fc1", 1],
    ]


# -- what is exported ---------------------------------------------------------------------------


def exported(plot: Plot, folder: Path, *blueprint_ids: str) -> tuple[Path, list[KernelReady]]:
    """Export to a folder; return the folder and the announcements of the kernels."""
    store = open_store(f"file:{folder / 'kernels'}")
    signature = plot.sites["fc1"].signature
    ready = [announced(store, blueprint_id, signature) for blueprint_id in blueprint_ids]
    run_history = RunHistory(kernels={kernel.kernel_id: kernel for kernel in ready})
    out = export_model(plot.model, plot.sites, images(1), run_history, RUN, folder / "out")
    return out, ready


def test_the_export_of_a_layer_with_a_merged_kernel_is_the_plain_layer(tmp_path: Path) -> None:
    plot = trained("fc1", "low-rank-skip")
    before = output(plot)
    plot.fossilize("fc1", 0)
    folder, _ = exported(plot, tmp_path, "low-rank-skip")
    source = (folder / "model.py").read_text()
    assert "self.fc1 = nn.Linear(" in source
    assert not re.search("Site_|Kernel_|alpha", source)
    with torch.no_grad():
        found = load_exported(folder)(images(9))
    torch.testing.assert_close(found, before, rtol=0, atol=WITHIN * float(before.abs().max()))


def test_the_lineage_lists_merged_kernels_and_kernels_beside_their_layer(tmp_path: Path) -> None:
    plot = trained("fc1", "low-rank-skip")
    plot.fossilize("fc1", 0)
    plot.plant("fc1", 1, "linear-bottleneck")
    folder, ready = exported(plot, tmp_path, "low-rank-skip", "linear-bottleneck")
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
