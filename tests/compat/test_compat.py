"""A grown host trains like the same network written by hand, with every supported feature."""

import copy
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from esper.seed import Seed, Site, find_sites
from tests.compat.features import FEATURES, Feature, device_of, plainly
from tests.compat.page import DISTRIBUTED, PAGE, ROOT, DistributedFeature, render
from tests.seed.hosts import SITES, Host, host, images
from tests.seed.kernels import awaken, kernel_for

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CASES = [
    pytest.param(feature, device, id=f"{name}, {device}")
    for name, feature in FEATURES.items()
    for device in DEVICES
    if device == "cpu" or feature.on_gpu is not None
]
BLUEPRINTS = {"conv": "conv-bottleneck", "fc1": "gated-linear-unit"}
ALPHA = 0.5


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Have a GPU compute in full float32, and sum in a fixed order."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


class ByHand(nn.Module):
    """A layer and a kernel in plain PyTorch."""

    def __init__(self, layer: nn.Module, kernel: nn.Module) -> None:
        super().__init__()
        self.layer, self.kernel = layer, kernel

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        y: Tensor = h + ALPHA * self.kernel(x, h)
        return y


def both(model: Host | None = None, device: str = "cpu") -> tuple[Host, Host, dict[str, Site]]:
    """Return a grown host, the same network written by hand, and the sites of the grown host."""
    grown = (model or host()).to(device)
    by_hand = copy.deepcopy(grown)
    sites = find_sites(grown, SITES, images(1).to(device), slots=3)
    for name, blueprint in BLUEPRINTS.items():
        seed = Seed(kernel_for(blueprint, sites[name].signature), ALPHA)
        awaken(seed.kernel)
        sites[name].plant(0, seed.to(device))
        layer = by_hand.get_submodule(name)
        setattr(by_hand, name, ByHand(layer, copy.deepcopy(seed.kernel)))
    return grown, by_hand, sites


def assert_alike(one: nn.Module, other: nn.Module, within: float = 0.0) -> None:
    one.eval()
    other.eval()
    x = images(9).to(device_of(one))
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=within)


def assert_replayed_or_eager(feature: Feature, site: Site) -> None:
    """Assert that a GPU replayed passes from a graph, or counted them as eager if it must not."""
    assert site.bank is not None
    captures = site.bank.capture_stats
    if feature.eager is None:
        assert captures.replays > 0, captures
    else:
        assert captures.replays == 0
        assert captures.fallbacks[feature.eager] > 0, captures


@pytest.mark.parametrize(("feature", "device"), CASES)
def test_a_grown_host_trains_as_the_network_written_by_hand(feature: Feature, device: str) -> None:
    grown, by_hand, sites = both(device=device)
    before = copy.deepcopy(sites["fc1"].seed(0).kernel.state_dict())
    trained = feature.train(grown)
    within = feature.within if device == "cpu" else feature.on_gpu
    assert within is not None
    assert_alike(trained, feature.train(by_hand), within)
    after = trained.get_submodule(sites["fc1"].module_path(0) + ".kernel").state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in after.items())
    if device == "cuda":
        for site in sites.values():
            assert_replayed_or_eager(feature, site)


def test_hooks_on_a_site_s_layer_see_the_layer_s_values() -> None:
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


def test_a_state_dict_loads_into_another_host_with_the_same_kernels() -> None:
    grown, _, _ = both()
    plainly(grown)
    other, _, _ = both(host(seed=7))
    other.load_state_dict(grown.state_dict())
    assert_alike(grown, other)


def test_a_step_without_a_site_does_not_change_its_kernel() -> None:
    grown, _, sites = both()
    kernel = sites["fc1"].seed(0).kernel
    before = copy.deepcopy(kernel.state_dict())
    optimizer = torch.optim.Adam(grown.parameters())
    grown.fc2(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in kernel.state_dict().items())


def test_a_host_trains_after_the_removal_of_a_kernel_that_is_not_finite() -> None:
    grown, _, sites = both()
    with torch.no_grad():
        for parameter in sites["fc1"].seed(0).kernel.parameters():
            parameter.fill_(float("nan"))
    assert not torch.isfinite(grown(images())).any()
    sites["fc1"].remove(0)
    assert torch.isfinite(grown(images())).all()


def test_the_committed_page_is_rendered_from_the_tests() -> None:
    assert PAGE.read_text() == render(), "run `python -m tests.compat.page`"


@pytest.mark.parametrize("row", DISTRIBUTED, ids=[row.name for row in DISTRIBUTED])
def test_every_test_that_the_page_names_exists(row: DistributedFeature) -> None:
    for file, name in row.tests:
        source = (ROOT / file).read_text()
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
