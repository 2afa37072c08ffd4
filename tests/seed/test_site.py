"""Sites: which layers may carry seeds; a site without seeds is the host's own layer."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.seed import SeedBank, SiteRefused, find_sites
from esper.topics.models import SiteKind
from tests.seed.hosts import Host, host, images, sites_of
from tests.seed.kernels import awaken, plant


def test_a_signature_has_the_shapes_dtype_and_device_observed_at_the_layer() -> None:
    sites = sites_of(host())
    conv, fc1 = sites["conv"].signature, sites["fc1"].signature
    assert (conv.kind, conv.x, conv.h) == (SiteKind.FEATURE_MAP, (2, 6, 6), (8, 6, 6))
    assert (fc1.kind, fc1.x, fc1.h) == (SiteKind.VECTOR, (8,), (8,))
    assert (conv.dtype, conv.device) == ("float32", "cpu")


def test_a_linear_layer_over_positions_is_a_sequence() -> None:
    sites = find_sites(nn.Sequential(nn.Linear(4, 6)), ["0"], torch.randn(1, 5, 4), slots=1)
    assert sites["0"].signature.kind is SiteKind.SEQUENCE
    assert sites["0"].signature.h == (5, 6)


def test_each_site_has_its_slots_all_dormant() -> None:
    sites = sites_of(host(), slots=3)
    assert [str(slot) for slot in sites["fc1"].slots] == [f"seed fc1/{n}" for n in range(3)]
    assert not list(sites["fc1"].seeds())


class Reused(nn.Module):
    """Runs `twice` two times, `never` not at all, `rows` on other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.rows = nn.Linear(2, 2)
        self.wide = nn.Linear(4, 4).double()
        self.alias = self.twice

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(x))
        x = self.wide(x.double()).float()
        y: Tensor = self.rows(x.view(-1, 2)).view(-1, 4)
        return y


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no site is named; name layers, for instance twice"),
        (["nowhere"], "no layer 'nowhere'; it has twice, never"),
        ([""], "the model itself cannot be a site; name one of its layers: twice, never"),
        (["twice"], "twice runs 2 times in one forward pass"),
        (["never"], "never runs 0 times in one forward pass"),
        (["rows"], r"rows computes \(2, 2\) of \(2, 2\) for 1 samples"),
        (["wide"], "wide computes torch.float64 on cpu, for which no kernel is compiled"),
        (["twice", "alias"], "two of twice, alias are the same layer"),
    ],
)
def test_a_layer_that_cannot_carry_seeds_is_refused_with_the_reason(
    names: list[str], reason: str
) -> None:
    with pytest.raises(SiteRefused, match=reason):
        find_sites(Reused(), names, torch.randn(1, 4), slots=1)


def test_a_layer_that_already_grows_is_refused() -> None:
    model = host()
    plant(sites_of(model)["fc1"], 0, "low-rank-skip")
    with pytest.raises(SiteRefused, match="fc1 already has its own forward"):
        sites_of(model, "fc1")


def test_finding_sites_changes_neither_the_model_nor_the_random_number_state() -> None:
    class Noisy(Host):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    model = Noisy()
    model.fc2.eval()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sites_of(model)
    assert model.training
    assert not model.fc2.training
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def assert_is_the_hosts_own(model: Host) -> None:
    """Assert that nothing of Esper is left in a model: forward, state and modules are its own."""
    assert not any("forward" in vars(module) for module in model.modules())
    assert [type(module) for module in model.modules()] == [Host, nn.Conv2d, nn.Linear, nn.Linear]
    assert list(model.state_dict()) == list(host().state_dict())


def test_a_dormant_site_is_the_hosts_own_layer() -> None:
    model = host()
    sites = sites_of(model)
    assert_is_the_hosts_own(model)
    assert sites["conv"].bank is None


def test_a_site_whose_last_seed_is_removed_is_the_hosts_own_layer_again() -> None:
    model = host()
    site = sites_of(model)["fc1"]
    for slot in (0, 2):
        awaken(plant(site, slot, "linear-bottleneck"))
    site.remove(0)
    assert isinstance(site.bank, SeedBank)
    site.remove(2)
    assert_is_the_hosts_own(model)
    assert torch.equal(model(images()), host()(images()))


def test_an_emptied_site_can_be_planted_again() -> None:
    model = host()
    site = sites_of(model)["fc1"]
    plant(site, 0, "low-rank-skip")
    site.remove(0)
    awaken(plant(site, 1, "linear-bottleneck"))
    assert not torch.equal(model(images()), host()(images()))
    assert [slot.index for slot, _ in site.seeds()] == [1]


@pytest.mark.parametrize("take", [lambda site: site.seed(0), lambda site: site.remove(0)])
def test_removing_from_an_empty_site_is_refused(take: Callable[[object], object]) -> None:
    with pytest.raises(KeyError, match="fc1 has nothing planted"):
        take(sites_of(host())["fc1"])


def test_the_module_path_of_a_seed_names_its_module_in_the_host() -> None:
    model = host()
    site = sites_of(model)["fc1"]
    seed = plant(site, 2, "low-rank-skip")
    assert model.get_submodule(site.module_path(2)) is seed


def grown() -> Host:
    """Return a host with kernels of nonzero output."""
    model = host()
    sites = sites_of(model)
    awaken(plant(sites["conv"], 0, "conv-bottleneck", alpha=0.5))
    awaken(plant(sites["fc1"], 1, "gated-linear-unit"))
    return model


def test_a_copy_of_a_grown_model_runs_its_own_kernels() -> None:
    model = grown()
    twin = copy.deepcopy(model)
    expected = model(images())
    assert torch.equal(twin(images()), expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(images()), expected)


def test_a_copy_made_while_dormant_does_not_grow_with_the_original() -> None:
    model = host()
    site = sites_of(model)["fc1"]
    twin = copy.deepcopy(model)
    awaken(plant(site, 0, "linear-bottleneck"))
    assert_is_the_hosts_own(twin)


def test_a_grown_model_saves_and_loads_its_state() -> None:
    model, other = grown(), grown()
    awaken(other, seed=5)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images()), model(images()))


def test_a_pickled_grown_model_computes_the_same() -> None:
    model = grown()
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(images()), model(images()))


def test_a_grown_model_moves_to_another_dtype_as_a_whole() -> None:
    model = grown()
    moved = copy.deepcopy(model).double()
    assert {value.dtype for value in moved.state_dict().values()} == {torch.float64}
    torch.testing.assert_close(moved(images().double()).float(), model(images()))
