"""A grown host trains as the same network written by hand does, whatever it has to live with."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.seed import Site
from tests.compat.features import FEATURES, Feature, plainly
from tests.compat.page import PAGE, rendered
from tests.seed.hosts import Host, host, images, sites_of
from tests.seed.kernels import awaken, plant

BLUEPRINTS = {"conv": "conv-bottleneck", "fc1": "gated-linear-unit"}
ALPHA = 0.5


class ByHand(nn.Module):
    """A layer and a kernel, as a user would write them."""

    def __init__(self, layer: nn.Module, kernel: nn.Module) -> None:
        super().__init__()
        self.layer, self.kernel = layer, kernel

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        y: Tensor = h + ALPHA * self.kernel(x, h)
        return y


def both(model: Host | None = None) -> tuple[Host, Host, dict[str, Site]]:
    """A grown host, the same network by hand, and the sites of the first."""
    grown = model or host()
    by_hand = copy.deepcopy(grown)
    sites = sites_of(grown)
    for name, blueprint in BLUEPRINTS.items():
        seed = plant(sites[name], 0, blueprint, alpha=ALPHA)
        awaken(seed.kernel)
        layer = by_hand.get_submodule(name)
        setattr(by_hand, name, ByHand(layer, copy.deepcopy(seed.kernel)))
    return grown, by_hand, sites


def assert_alike(one: nn.Module, other: nn.Module, within: float = 0.0) -> None:
    one.eval()
    other.eval()
    torch.testing.assert_close(one(images(9)), other(images(9)), rtol=0, atol=within)


@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES)
def test_a_grown_host_trains_as_the_network_written_by_hand(feature: Feature) -> None:
    grown, by_hand, sites = both()
    before = copy.deepcopy(sites["fc1"].seed(0).kernel.state_dict())
    judged = feature.train(grown)
    assert_alike(judged, feature.train(by_hand), feature.within)
    after = judged.get_submodule(sites["fc1"].path_of(0) + ".kernel").state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in after.items())


def test_hooks_of_others_on_a_sites_layer_see_what_they_would() -> None:
    grown, by_hand, _ = both()
    seen: dict[str, list[Tensor]] = {}
    for name, layer in {"grown": grown.fc1, "by hand": by_hand.fc1}.items():
        log = seen[name] = []
        layer.register_forward_pre_hook(lambda _, x, log=log: log.append(x[0].detach()))
        layer.register_forward_hook(lambda _, x, y, log=log: log.append(y.detach()))
        layer.register_full_backward_hook(lambda _, gx, gy, log=log: log.extend((gx[0], gy[0])))
    plainly(grown)
    plainly(by_hand)
    assert len(seen["grown"]) > 4
    for one, other in zip(*seen.values(), strict=True):
        assert torch.equal(one, other)


def test_a_layer_with_weight_normalisation_grows() -> None:
    model = host()
    nn.utils.parametrizations.weight_norm(model.fc1)
    grown, by_hand, _ = both(model)
    plainly(grown)
    plainly(by_hand)
    assert_alike(grown, by_hand)


def test_a_layer_that_shares_its_weight_with_another_grows() -> None:
    model = host()
    model.fc2 = nn.Linear(8, 8)
    model.fc2.weight = model.fc1.weight
    grown, by_hand, _ = both(model)
    by_hand.fc2.weight = by_hand.fc1.layer.weight  # type: ignore[union-attr]
    plainly(grown)
    plainly(by_hand)
    assert_alike(grown, by_hand)


def test_a_state_dict_goes_into_another_host_grown_alike() -> None:
    grown, _, _ = both()
    plainly(grown)
    other, _, _ = both(host(seed=7))
    other.load_state_dict(grown.state_dict())
    assert_alike(grown, other)


def test_a_step_in_which_a_site_does_not_run_leaves_its_kernel_alone() -> None:
    grown, _, sites = both()
    kernel = sites["fc1"].seed(0).kernel
    before = copy.deepcopy(kernel.state_dict())
    optimizer = torch.optim.Adam(grown.parameters())
    grown.fc2(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in kernel.state_dict().items())


def test_a_kernel_with_values_that_are_not_finite_can_be_removed_and_the_host_lives() -> None:
    grown, _, sites = both()
    with torch.no_grad():
        for parameter in sites["fc1"].seed(0).kernel.parameters():
            parameter.fill_(float("nan"))
    assert not torch.isfinite(grown(images())).any()
    sites["fc1"].remove(0)
    assert torch.isfinite(grown(images())).all()


def test_the_page_is_what_the_tests_are() -> None:
    assert PAGE.read_text() == rendered(), "run `python -m tests.compat.page`"


def test_every_test_on_a_gpu_that_the_page_names_exists() -> None:
    on_gpu = (Path(__file__).parents[1] / "seed" / "test_cuda_seeds.py").read_text()
    assert all(f"def {feature.gpu}" in on_gpu for feature in FEATURES.values() if feature.gpu)
