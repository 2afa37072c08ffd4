"""Gradient norms of sites: of the host's own layers, in the step that is reported."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

import esper
from esper.settings import Settings
from esper.topics.codec import encode
from esper.topics.models import PolicySpec
from esper.training.gradients import GradientNorms
from esper.training.optimizer import OptimizerMembership
from tests.seed.hosts import host, images, labels
from tests.training.fake_workers import Outside
from tests.training.grow_fixture import GrowingHost

REPORT_EVERY = 3


def by_hand(layer: nn.Module) -> float:
    """Return the norm of a plain layer's gradient."""
    squares = sum(
        float((parameter.grad.double() ** 2).sum())
        for parameter in layer.parameters()
        if parameter.grad is not None
    )
    return math.sqrt(squares)


def backward(growing: GrowingHost) -> None:
    """Run the forward and the backward pass of a training step."""
    F.cross_entropy(growing.model(images(16)), labels(16)).backward()


def finish(growing: GrowingHost) -> None:
    """Run the optimizer's step and zero the gradients."""
    growing.optimizer.step()
    growing.optimizer.zero_grad()


def test_norms_are_available_after_gradients_are_zeroed() -> None:
    growing = GrowingHost()
    norms = GradientNorms(growing.sites)
    growing.seed_manager.measure_gradients(norms)
    backward(growing)
    expected = {name: by_hand(site.layer) for name, site in growing.sites.items()}
    finish(growing)
    assert norms.take() == pytest.approx(expected, rel=1e-5)
    assert norms.take() == {}


def test_only_the_next_step_is_measured_and_no_hook_remains() -> None:
    growing = GrowingHost()
    norms = GradientNorms(growing.sites)
    growing.train()
    assert norms.take() == {}
    growing.seed_manager.measure_gradients(norms)
    growing.train()
    assert norms.take().keys() == {"conv", "fc1"}
    growing.train()
    assert norms.take() == {}
    assert not growing.optimizer._optimizer_step_pre_hooks


def test_seeds_do_not_count_in_the_norm_of_their_layer() -> None:
    growing = GrowingHost()
    norms = GradientNorms(growing.sites)
    layer = growing.sites["fc1"].layer
    growing.seed_manager.measure_gradients(norms)
    backward(growing)
    expected = by_hand(layer)
    # Fresh, so an exact no-op: the layer's own gradient is as it was, the kernel's comes on top.
    growing.optimizer.zero_grad()
    growing.plant("fc1", 0, "linear-bottleneck")
    backward(growing)
    assert by_hand(layer) > expected * 1.01
    finish(growing)
    assert norms.take()["fc1"] == pytest.approx(expected, rel=1e-5)


def test_sites_without_a_finite_norm_are_left_out() -> None:
    growing = GrowingHost()
    norms = GradientNorms(growing.sites)
    growing.seed_manager.measure_gradients(norms)
    backward(growing)
    assert isinstance(growing.model.conv.weight.grad, Tensor)
    growing.model.conv.weight.grad[0] = torch.nan
    finish(growing)
    assert norms.take().keys() == {"fc1"}
    growing = GrowingHost()
    norms = GradientNorms(growing.sites)
    growing.seed_manager.measure_gradients(norms)
    finish(growing)
    assert norms.take() == {}


def test_norms_of_a_fused_optimizer_are_without_the_scale_of_its_loss() -> None:
    growing = GrowingHost(lambda model: Adam(model.parameters(), fused=True))
    norms, scaler = GradientNorms(growing.sites), torch.amp.GradScaler("cpu", init_scale=1024.0)
    growing.seed_manager.measure_gradients(norms)
    scaler.scale(F.cross_entropy(growing.model(images(16)), labels(16))).backward()  # type: ignore[no-untyped-call]
    scaled = by_hand(growing.model.fc1)
    scaler.step(growing.optimizer)
    assert norms.take()["fc1"] == pytest.approx(scaled / 1024.0, rel=1e-5)


def test_a_closed_membership_measures_nothing() -> None:
    model = host()
    optimizer = SGD(model.parameters(), lr=0.1)
    membership = OptimizerMembership(optimizer)
    membership.before_next_step(lambda _: pytest.fail("it was called"))
    membership.close()
    optimizer.step()
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("every", [1, REPORT_EVERY])
def test_a_contextual_run_reports_the_gradients_of_each_step_that_it_reports(
    settings: Settings, outside: Outside, every: int
) -> None:
    run_id, expected = train(settings, every, PolicySpec(name="linear-thompson"))
    first, *others, last = outside.reports(run_id)
    assert first.gradients == last.gradients == {}
    assert len(others) == len(expected)
    for report, gradients in zip(others, expected, strict=True):
        assert report.gradients == pytest.approx(gradients, rel=1e-5)


def test_other_runs_measure_nothing_and_their_reports_keep_their_bytes(
    settings: Settings, outside: Outside
) -> None:
    run_id, _ = train(settings, REPORT_EVERY, PolicySpec(name="ucb1"))
    reports = outside.reports(run_id)
    assert len(reports) > 2
    assert not any(b"gradients" in encode(report) for report in reports)


def train(settings: Settings, every: int, policy: PolicySpec) -> tuple[str, list[dict[str, float]]]:
    """Train a while; return the run and the norms of the steps that are reported."""
    model = host()
    optimizer = Adam(model.parameters())
    expected = []
    with esper.grow(
        model,
        optimizer,
        sites=["conv", "fc1"],
        probe=(images(20), labels(20)),
        loss_fn=F.cross_entropy,
        report_every=every,
        config=esper.GrowConfig(policy=policy, seal_timeout_s=0.3, settings=settings),
    ) as growth:
        for step in range(1, 2 * every + 2):
            loss = F.cross_entropy(model(images(16, seed=step)), labels(16, seed=step))
            loss.backward()
            if step % every == 0:
                layers = {name: site.layer for name, site in growth.sites.items()}
                expected.append({name: by_hand(layer) for name, layer in layers.items()})
            optimizer.step()
            optimizer.zero_grad()
            while not growth._session.link.can_report():
                pass
            growth.step(loss)
    return growth.run_id, expected
