"""The probe: leave-one-out contributions of seeds in one batched forward pass."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.seed import Site, find_sites
from esper.training.probe import Probe, ProbeRefused, ProbeResult
from tests.seed.hosts import host, images, labels
from tests.seed.kernels import awaken
from tests.training.grow_fixture import GrowingHost

BATCH = images(40, seed=3), labels(40, seed=3)


def grown(*slots: tuple[str, int]) -> GrowingHost:
    """Return a host with seeds that change its output, at these (site, slot) pairs."""
    growing = GrowingHost()
    names = {"conv": ("conv-bottleneck", "squeeze-excite"), "fc1": ("linear-bottleneck",) * 2}
    for index, (site, slot) in enumerate(slots):
        kernel = growing.plant(site, slot, names[site][slot], alpha=0.9 - 0.2 * index)
        awaken(kernel, index)
    return growing


def measure(growing: GrowingHost) -> ProbeResult:
    return Probe(BATCH, F.cross_entropy).measure(growing.model, growing.sites)


def naive(growing: GrowingHost, site: str, slot: int) -> float:
    """Return the loss without the seed minus the loss with it, from two forward passes."""
    seed = growing.sites[site].seed(slot)
    losses = []
    for alpha in (torch.zeros_like(seed.alpha), seed.alpha):
        twin = copy.deepcopy(growing.model).eval()
        twin.get_submodule(growing.sites[site].module_path(slot)).alpha = alpha
        with torch.no_grad():
            losses.append(float(F.cross_entropy(twin(BATCH[0]), BATCH[1])))
    return losses[0] - losses[1]


@pytest.mark.parametrize(
    "slots",
    [
        [("fc1", 0)],
        [("conv", 0), ("fc1", 1)],
        [("conv", 0), ("conv", 1)],
        [("conv", 0), ("conv", 1), ("fc1", 0)],
    ],
    ids=str,
)
def test_a_contribution_is_the_loss_without_a_seed_minus_the_loss_with_it(
    slots: list[tuple[str, int]],
) -> None:
    growing = grown(*slots)
    measured = measure(growing)
    assert list(measured.contributions) == slots
    for site, slot in slots:
        expected = naive(growing, site, slot)
        assert abs(expected) > 1e-4
        assert measured.contributions[site, slot] == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_that_of_the_whole_model() -> None:
    growing = grown(("conv", 0), ("fc1", 0))
    with torch.no_grad():
        expected = float(F.cross_entropy(growing.model(BATCH[0]), BATCH[1]))
    assert measure(growing).loss == pytest.approx(expected, abs=1e-6)


def test_only_seeds_on_trial_are_left_out() -> None:
    growing = grown(("conv", 0), ("fc1", 0))
    growing.fossilize("conv", 0)
    assert list(measure(growing).contributions) == [("fc1", 0)]


def test_a_blending_seed_is_measured_at_its_present_alpha() -> None:
    growing = GrowingHost()
    awaken(growing.plant("fc1", 0, "linear-bottleneck", ramp_steps=10))
    assert measure(growing).contributions["fc1", 0] == pytest.approx(
        naive(growing, "fc1", 0), abs=1e-6
    )


class Stateful(nn.Module):
    """A host that depends on mode and random numbers: BatchNorm, Dropout, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc1 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.norm(self.conv(x)))).mean(dim=(-2, -1))
        y: Tensor = self.fc1(F.dropout(x, 0.1))
        return y


def measured_stateful() -> tuple[Stateful, dict[str, Site], Probe]:
    torch.manual_seed(0)
    model = Stateful()
    model(images())
    model.norm.eval()
    return model, find_sites(model, ["conv"], images(1), slots=1), Probe(BATCH, F.cross_entropy)


def test_measuring_changes_neither_model_nor_random_numbers() -> None:
    model, sites, probe = measured_stateful()
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    probe.measure(model, sites)
    assert torch.equal(torch.get_rng_state(), random)
    assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_keeps_every_alpha_tensor() -> None:
    growing = grown(("conv", 0), ("fc1", 0))
    seeds = [seed for site in growing.sites.values() for _, seed in site.seeds()]
    alphas = [(seed.alpha, seed.alpha.clone()) for seed in seeds]
    measure(growing)
    for seed, (alpha, value) in zip(seeds, alphas, strict=True):
        assert seed.alpha is alpha
        assert torch.equal(alpha, value)


def test_a_failing_forward_restores_every_alpha_and_mode() -> None:
    growing = grown(("fc1", 0))
    alpha = growing.sites["fc1"].seed(0).alpha

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    handle = growing.model.fc2.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        measure(growing)
    handle.remove()
    assert growing.sites["fc1"].seed(0).alpha is alpha
    assert growing.model.training


def test_a_loss_that_is_not_finite_is_none() -> None:
    growing = grown(("fc1", 0))
    with torch.no_grad():
        growing.model.fc2.bias.fill_(float("nan"))
    assert measure(growing) == ProbeResult(loss=None, contributions={("fc1", 0): None})


def test_a_loss_that_is_not_finite_gives_no_contribution() -> None:
    growing = grown(("fc1", 0), ("fc1", 1))
    with torch.no_grad():
        next(growing.sites["fc1"].seed(0).kernel.parameters()).fill_(float("inf"))
    measured = measure(growing)
    assert measured.loss is None
    assert set(measured.contributions.values()) == {None}


@pytest.mark.parametrize(
    ("inputs", "targets"), [(images(4), labels(3)), (images(4)[:0], labels(4)[:0])]
)
def test_a_probe_without_one_target_for_each_input_is_refused(
    inputs: Tensor, targets: Tensor
) -> None:
    with pytest.raises(ProbeRefused, match=r"the probe has . inputs and . targets; give the same"):
        Probe((inputs, targets), F.cross_entropy)


def test_a_loss_of_each_sample_is_refused() -> None:
    probe = Probe(BATCH, lambda output, target: F.cross_entropy(output, target, reduction="none"))
    with pytest.raises(
        ProbeRefused, match=r"loss_fn returned a tensor of shape \(40,\); return the mean loss"
    ):
        probe.measure(host(), {})


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("model", [Pair(), nn.Flatten(0)], ids=["two tensors", "no rows"])
def test_a_model_whose_output_has_no_row_for_each_sample_is_refused(model: nn.Module) -> None:
    with pytest.raises(ProbeRefused, match="not one tensor with a row for each sample"):
        Probe(BATCH, F.cross_entropy).measure(model, {})
