"""The math of a seed: y = h + the sum of alpha * k(x, h), and its consequences."""

import copy

import pytest
import torch
from torch import Tensor, nn

from esper.blueprint import shipped
from esper.seed import Seed, SeedBank, Site, find_sites
from esper.topics.models import SiteKind
from tests.seed.hosts import host, images, labels, sites_of
from tests.seed.kernels import awaken, kernel_for, plant

EACH_BLUEPRINT = pytest.mark.parametrize(
    ("blueprint_id", "kind"),
    [(blueprint.blueprint_id, kind) for blueprint in shipped() for kind in blueprint.kinds],
)

INPUTS = {
    SiteKind.FEATURE_MAP: (3, 6, 6),
    SiteKind.VECTOR: (12,),
    SiteKind.SEQUENCE: (5, 12),
}


def a_site(kind: SiteKind) -> tuple[Site, Tensor]:
    """A lone layer as a site, and a batch of its inputs."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, padding=1) if kind is SiteKind.FEATURE_MAP else nn.Linear(12, 16)
    x = torch.randn(7, *INPUTS[kind])
    site = find_sites(nn.Sequential(layer), ["0"], x[:1], slots=3)["0"]
    return site, x


@EACH_BLUEPRINT
def test_a_fresh_kernel_leaves_the_output_bit_equal(blueprint_id: str, kind: SiteKind) -> None:
    site, x = a_site(kind)
    before = site.layer(x)
    plant(site, 0, blueprint_id, alpha=1.0)
    assert torch.equal(site.layer(x), before)


@EACH_BLUEPRINT
def test_every_parameter_of_a_kernel_has_gradient_within_three_steps(
    blueprint_id: str, kind: SiteKind
) -> None:
    site, x = a_site(kind)
    target = torch.randn_like(site.layer(x))
    kernel = plant(site, 0, blueprint_id).kernel
    optimizer = torch.optim.SGD(kernel.parameters(), lr=0.5)
    felt: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        (site.layer(x) - target).square().mean().backward()
        for name, parameter in kernel.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                felt.add(name)
        optimizer.step()
    assert felt == set(dict(kernel.named_parameters()))


def test_the_order_of_planting_changes_no_bit() -> None:
    results = []
    for order in ((0, 1, 2), (2, 0, 1)):
        site, x = a_site(SiteKind.FEATURE_MAP)
        names = ("gated-conv", "conv-bottleneck", "residual-conv3x3")
        for slot in order:
            torch.manual_seed(slot)
            awaken(plant(site, slot, names[slot], alpha=1.0).kernel)
        results.append(site.layer(x))
    assert torch.equal(*results)


@EACH_BLUEPRINT
def test_the_output_is_h_plus_alpha_times_the_kernel_exactly(
    blueprint_id: str, kind: SiteKind
) -> None:
    site, x = a_site(kind)
    h = site.layer(x)
    seed = plant(site, 0, blueprint_id, alpha=0.3)
    awaken(seed.kernel)
    seed.kernel.eval()
    added = seed.alpha * seed.kernel(x, h)
    assert added.any()
    assert torch.equal(site.layer(x), h + added)


def test_the_outputs_of_a_sites_seeds_are_summed_and_independent() -> None:
    site, x = a_site(SiteKind.VECTOR)
    h = site.layer(x)
    seeds = [plant(site, slot, "linear-bottleneck", alpha) for slot, alpha in enumerate((0.2, 0.7))]
    for number, seed in enumerate(seeds):
        awaken(seed.kernel, number)
    one, two = (seed.alpha * seed.kernel(x, h) for seed in seeds)
    assert torch.equal(site.layer(x), h + one + two)


@pytest.mark.parametrize("kind", list(INPUTS))
def test_alpha_may_be_a_tensor_with_one_value_per_sample(kind: SiteKind) -> None:
    site, x = a_site(kind)
    h = site.layer(x)
    name = "conv-bottleneck" if kind is SiteKind.FEATURE_MAP else "linear-bottleneck"
    seed = plant(site, 0, name)
    awaken(seed.kernel)
    added = seed.kernel(x, h)
    seed.alpha = torch.linspace(0.0, 1.0, len(x))
    y = site.layer(x)
    for sample, alpha in enumerate(seed.alpha):
        assert torch.equal(y[sample], h[sample] + alpha * added[sample])


def test_a_fresh_kernel_leaves_the_gradients_of_the_host_bit_equal() -> None:
    plain, grown = host(), host()
    sites = sites_of(grown)
    plant(sites["conv"], 0, "conv-bottleneck")
    plant(sites["conv"], 1, "squeeze-excite")
    plant(sites["fc1"], 0, "low-rank-skip")
    for model in (plain, grown):
        nn.functional.cross_entropy(model(images()), labels()).backward()
    grads = dict(grown.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        found = grads[name].grad
        assert found is not None
        assert torch.equal(found, parameter.grad), name


def test_the_host_path_keeps_its_full_gradient_beside_a_trained_kernel() -> None:
    """d(sum of y)/dh is one for the host's own path, plus what passes through the kernel."""
    site, x = a_site(SiteKind.VECTOR)
    seed = Seed(kernel_for("linear-bottleneck", site.signature), alpha=0.5)
    awaken(seed.kernel)
    bank = SeedBank()
    bank.plant(0, seed)
    h = site.layer(x).detach().requires_grad_()
    (whole,) = torch.autograd.grad(bank(x, h).sum(), h)
    (through,) = torch.autograd.grad((seed.alpha * seed.kernel(x, h)).sum(), h)
    torch.testing.assert_close(whole, 1 + through)


def test_under_autocast_a_seed_does_not_widen_the_dtype_of_its_layer() -> None:
    site, x = a_site(SiteKind.FEATURE_MAP)
    plant(site, 0, "squeeze-excite")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert site.layer(x).dtype == torch.bfloat16


def test_alpha_is_a_buffer_in_the_state_dict_and_not_a_parameter() -> None:
    site, _ = a_site(SiteKind.VECTOR)
    seed = plant(site, 0, "low-rank-skip", alpha=0.25)
    assert "alpha" in seed.state_dict()
    assert "alpha" not in dict(seed.named_parameters())
    assert float(copy.deepcopy(seed).alpha) == 0.25
