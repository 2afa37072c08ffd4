"""The static final network: a host with the kernels of a grown network from its first step on."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F
from torch.optim import Adam

from esper.kernel import ArtifactRefused, FetchedKernel, fetch_kernels
from esper.store import KernelMissing, open_store
from esper.training.export import export_model, load_exported
from esper.training.lineage import Lineage, LineageUnreadable, RunHistory, read_lineage
from esper.training.static import StaticNetwork, StaticNetworkRefused, static_network
from tests.keys import PATHS
from tests.seed.hosts import Host, host, images, labels
from tests.seed.kernels import announced
from tests.training.grow_fixture import RUN, GrowingHost

ALPHA = 0.6
BESIDE, MERGED, MAP = "gated-linear-unit", "low-rank-skip", "conv-bottleneck"


class Grown(NamedTuple):
    """A grown network's folder, the URL of its kernel store and the trusted key."""

    growing: GrowingHost
    folder: Path
    store: str
    key: Path


@pytest.fixture
def grown(tmp_path: Path) -> Grown:
    """Export a network with a kernel beside each of two layers, and one merged into fc1."""
    growing = GrowingHost()
    growing.plant("fc1", 0, MERGED)
    growing.plant("conv", 1, MAP)
    growing.train(20)
    growing.fossilize("fc1", 0)
    growing.plant("fc1", 2, BESIDE, alpha=ALPHA)
    growing.train(5)
    url = f"file:{tmp_path / 'kernels'}"
    ready = [
        announced(open_store(url), name, growing.sites[site].signature)
        for site, name in (("fc1", MERGED), ("fc1", BESIDE), ("conv", MAP))
    ]
    run_history = RunHistory(kernels={kernel.kernel_id: kernel for kernel in ready})
    folder = export_model(
        growing.model, growing.sites, images(1), run_history, RUN, tmp_path / "grown"
    )
    return Grown(growing, folder, url, PATHS.public)


def kernels_of(grown: Grown, lineage: Lineage) -> dict[str, FetchedKernel]:
    return fetch_kernels(grown.store, grown.key, lineage.seeds)


def planted(grown: Grown, model: Host) -> StaticNetwork:
    """Return the static final of a grown network, in a host."""
    lineage = read_lineage(grown.folder)
    return static_network(model, lineage, kernels_of(grown, lineage), images(1))


def train(model: torch.nn.Module, steps: int) -> None:
    optimizer = Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        loss = F.cross_entropy(model(images(16, seed=step)), labels(16, seed=step))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def test_kernels_are_planted_in_their_slots_at_their_final_alpha_and_unmerged(grown: Grown) -> None:
    static = planted(grown, host())
    assert {
        (site.name, slot.index, seed.kernel.kernel_id, round(float(seed.alpha), 6))
        for site in static.sites.values()
        for slot, seed in site.seeds()
    } == {
        (seed.site, seed.slot, seed.kernel_id, ALPHA if seed.blueprint_id == BESIDE else 1.0)
        for seed in read_lineage(grown.folder).seeds
    }
    assert [seed.merged for seed in read_lineage(grown.folder).seeds if seed.slot == 0] == [True]


def test_before_the_first_step_the_output_is_the_host_s_bit_for_bit(grown: Grown) -> None:
    static = planted(grown, host())
    with torch.no_grad():
        assert torch.equal(static.model(images(9)), host()(images(9)))


def test_its_parameters_are_those_of_the_grown_network_and_of_merged_kernels(grown: Grown) -> None:
    static = planted(grown, host())
    merged = sum(seed.params for seed in static.lineage.seeds if seed.merged)
    assert merged > 0
    assert sum(parameter.numel() for parameter in static.model.parameters()) == merged + sum(
        parameter.numel() for parameter in grown.growing.model.parameters()
    )


def test_training_changes_every_kernel_and_every_layer_of_the_host(grown: Grown) -> None:
    static = planted(grown, host())
    before = {name: value.clone() for name, value in static.model.named_parameters()}
    train(static.model, 3)
    unchanged = [
        name for name, value in static.model.named_parameters() if torch.equal(value, before[name])
    ]
    assert unchanged == []


def test_training_twice_from_one_seed_gives_the_same_bits(grown: Grown) -> None:
    first, second = planted(grown, host()), planted(grown, host())
    train(first.model, 5)
    train(second.model, 5)
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_trained_static_final_can_be_exported_and_planted_again(
    grown: Grown, tmp_path: Path
) -> None:
    static = planted(grown, host())
    train(static.model, 5)
    folder = static.export(tmp_path / "static")
    static.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(load_exported(folder)(images(9)), static.model(images(9)))
    again = read_lineage(folder)
    assert again.run_id == f"{RUN}-static-final"
    assert [(seed.site, seed.slot, seed.sha256) for seed in again.seeds] == [
        (seed.site, seed.slot, seed.sha256) for seed in static.lineage.seeds
    ]


@pytest.mark.parametrize("missing", ["alpha", "ed25519_signature"])
def test_a_lineage_that_lacks_a_field_is_refused_with_a_remedy(grown: Grown, missing: str) -> None:
    file = grown.folder / "lineage.json"
    lineage = json.loads(file.read_bytes())
    del lineage["seeds"][1][missing]
    file.write_text(json.dumps(lineage))
    with pytest.raises(LineageUnreadable, match=rf"seeds\.1\.{missing}: Field required") as refused:
        read_lineage(grown.folder)
    assert "export the run again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_lineage_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(LineageUnreadable, match=r"cannot read .*lineage\.json"):
        read_lineage(tmp_path)


def test_another_host_is_refused(grown: Grown) -> None:
    with pytest.raises(StaticNetworkRefused, match="give the host that the run began with"):
        planted(grown, Host(width=9))


def test_a_lineage_without_kernels_is_refused() -> None:
    lineage = Lineage(format="esper-lineage/1", run_id=RUN, seeds=())
    with pytest.raises(StaticNetworkRefused, match="its static final is the host"):
        static_network(host(), lineage, {}, images(1))


def test_an_altered_or_a_missing_kernel_is_refused(grown: Grown) -> None:
    lineage = read_lineage(grown.folder)
    name = lineage.seeds[0].location
    file = Path(grown.store.removeprefix("file:")) / f"{name}.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactRefused, match="the bytes changed after validation"):
        kernels_of(grown, lineage)
    with pytest.raises(KernelMissing, match="no kernel at"):
        kernels_of(grown, lineage)
