"""The optimizer of a growing model: every parameter in exactly one group, at every step."""

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

from esper.training.optimizer import OptimizerMembership, OptimizerRefused, ParameterUntrained
from tests.seed.hosts import host, images
from tests.training.grow_fixture import GrowingHost, MakeOptimizer

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda model: SGD(model.parameters(), lr=0.05),
    "momentum": lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda model: Adam(model.parameters(), lr=0.01),
    "adamw": lambda model: AdamW(model.parameters(), lr=0.01),
}
EACH_OPTIMIZER = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)

PLACES = list(product(("conv", "fc1"), range(2)))
BLUEPRINTS = {"conv": "squeeze-excite", "fc1": "low-rank-skip"}


def groups_of(optimizer: Optimizer) -> Counter[int]:
    """Return the number of groups that hold a parameter, by parameter."""
    return Counter(id(one) for group in optimizer.param_groups for one in group["params"])


def assert_each_parameter_is_in_one_group(growing: GrowingHost) -> None:
    assert groups_of(growing.optimizer) == Counter(id(one) for one in growing.model.parameters())


def assert_nothing_is_remembered_of_the_gone(growing: GrowingHost) -> None:
    present = {id(parameter) for parameter in growing.model.parameters()}
    assert {id(parameter) for parameter in growing.optimizer.state} <= present


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PLACES), st.just("train")), max_size=8))
def test_every_parameter_is_in_exactly_one_group_whatever_is_planted_and_culled(
    moves: list[tuple[str, int] | str],
) -> None:
    """A slot is planted if it is empty and culled otherwise."""
    growing = GrowingHost()
    for move in moves:
        if isinstance(move, str):
            growing.train()
            continue
        site, slot = move
        if slot in {found.index for found, _ in growing.sites[site].seeds()}:
            growing.cull(site, slot)
            growing.seed_manager.end_embargoes(growing.step, embargo_steps=0)
        else:
            growing.plant(site, slot, BLUEPRINTS[site])
        assert_each_parameter_is_in_one_group(growing)
        assert_nothing_is_remembered_of_the_gone(growing)


@EACH_OPTIMIZER
def test_a_planted_kernel_trains_from_the_next_step_on(make: MakeOptimizer) -> None:
    growing = GrowingHost(make)
    growing.train(2)
    kernel = growing.plant("fc1", 0, "linear-bottleneck")
    before = {name: value.clone() for name, value in kernel.state_dict().items()}
    growing.train()
    assert not torch.equal(kernel.state_dict()["up.bias"], before["up.bias"])
    growing.train(2)
    for name, value in kernel.state_dict().items():
        assert not torch.equal(value, before[name]), name


@EACH_OPTIMIZER
def test_a_culled_kernel_is_not_trained_and_leaves_no_optimizer_state(make: MakeOptimizer) -> None:
    growing = GrowingHost(make)
    kernel = growing.plant("fc1", 0, "linear-bottleneck")
    growing.train(2)
    growing.model(images()).sum().backward()
    growing.cull("fc1", 0)
    assert all(parameter.grad is None for parameter in kernel.parameters())
    left = {name: value.clone() for name, value in kernel.state_dict().items()}
    growing.train(2)
    assert all(torch.equal(value, left[name]) for name, value in kernel.state_dict().items())
    assert_nothing_is_remembered_of_the_gone(growing)


@EACH_OPTIMIZER
def test_a_kernel_culled_before_it_learned_leaves_the_bits_of_a_model_without_growth(
    make: MakeOptimizer,
) -> None:
    grown, plain = GrowingHost(make), GrowingHost(make)
    for growing in (grown, plain):
        growing.train(2)
    grown.plant("conv", 0, "conv-bottleneck")
    grown.plant("fc1", 1, "gated-linear-unit")
    grown.cull("conv", 0)
    grown.cull("fc1", 1)
    for growing in (grown, plain):
        growing.train(3)
    assert_same(grown.model.state_dict(), plain.model.state_dict())
    assert_same(flat_state(grown.optimizer), flat_state(plain.optimizer))


def flat_state(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Return the tensors of an optimizer's state, by parameter index and key."""
    return {
        f"{number}.{name}": value
        for number, remembered in optimizer.state_dict()["state"].items()
        for name, value in remembered.items()
        if isinstance(value, torch.Tensor)
    }


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_learning_rate_schedule_made_before_planting_governs_the_kernel() -> None:
    growing = GrowingHost()
    schedule = StepLR(growing.optimizer, step_size=1, gamma=0.5)
    kernel = growing.plant("fc1", 0, "low-rank-skip")
    growing.train()
    schedule.step()
    (group,) = growing.optimizer.param_groups
    assert {id(parameter) for parameter in kernel.parameters()} <= {id(p) for p in group["params"]}
    assert group["lr"] == 0.005
    growing.cull("fc1", 0)
    schedule.step()
    assert group["lr"] == 0.0025


def test_a_kernel_joins_the_group_of_its_layer() -> None:
    growing = GrowingHost(
        lambda model: SGD(
            [
                {"params": model.get_submodule("fc1").parameters(), "lr": 0.5},
                {"params": model.get_submodule("conv").parameters(), "lr": 0.1},
            ]
        )
    )
    kernels = growing.plant("fc1", 0, "low-rank-skip"), growing.plant("conv", 0, "squeeze-excite")
    for group, kernel in zip(growing.optimizer.param_groups, kernels, strict=True):
        members = {id(parameter) for parameter in group["params"]}
        assert {id(parameter) for parameter in kernel.parameters()} <= members


def test_a_kernel_joins_the_group_of_the_weight_where_the_bias_has_another() -> None:
    def split(model: nn.Module) -> Optimizer:
        named = list(model.named_parameters())
        return AdamW(
            [
                {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0},
                {"params": [p for name, p in named if not name.endswith("bias")]},
            ]
        )

    growing = GrowingHost(split)
    kernel = growing.plant("fc1", 0, "low-rank-skip")
    biases, weights = (
        {id(one) for one in group["params"]} for group in growing.optimizer.param_groups
    )
    assert {id(parameter) for parameter in kernel.parameters()} <= weights
    assert not {id(parameter) for parameter in kernel.parameters()} & biases


def test_an_optimizer_with_parameter_names_gets_the_names_of_kernels() -> None:
    growing = GrowingHost(lambda model: Adam(model.named_parameters()))
    (group,) = growing.optimizer.param_groups
    growing.plant("fc1", 0, "linear-bottleneck")
    growing.plant("conv", 1, "squeeze-excite")
    names = {id(parameter): name for name, parameter in growing.model.named_parameters()}
    assert group["param_names"] == [names[id(parameter)] for parameter in group["params"]]
    growing.cull("fc1", 0)
    assert group["param_names"] == [names[id(parameter)] for parameter in group["params"]]


def test_a_site_whose_layer_is_not_trained_is_refused() -> None:
    model = host()
    membership = OptimizerMembership(SGD(model.fc2.parameters(), lr=0.1))
    with pytest.raises(ParameterUntrained, match="no parameter of fc1 is in the optimizer; build"):
        membership.check("fc1", model.fc1)
    membership.check("fc2", model.fc2)


def test_an_optimizer_that_parameters_cannot_join_is_refused() -> None:
    with pytest.raises(OptimizerRefused, match="LBFGS keeps one vector"):
        OptimizerMembership(LBFGS(host().parameters()))


def test_an_optimizer_that_divides_its_parameters_among_ranks_is_refused() -> None:
    shared = ZeroRedundancyOptimizer.__new__(ZeroRedundancyOptimizer)
    with pytest.raises(OptimizerRefused, match="ZeroRedundancyOptimizer divided its parameters"):
        OptimizerMembership(shared)


def test_a_group_added_later_is_found_and_a_removed_group_is_not() -> None:
    model = host()
    optimizer = SGD(model.fc2.parameters(), lr=0.1)
    membership = OptimizerMembership(optimizer)
    membership.check("fc2", model.fc2)
    optimizer.add_param_group({"params": list(model.fc1.parameters())})
    membership.check("fc1", model.fc1)
    del optimizer.param_groups[0]
    with pytest.raises(ParameterUntrained, match="no parameter of fc2"):
        membership.check("fc2", model.fc2)


def test_another_optimizer_trains_present_and_future_seeds() -> None:
    growing = GrowingHost()
    kernel = growing.plant("fc1", 0, "linear-bottleneck")
    growing.train()
    before, old = (
        growing.optimizer,
        {name: value.clone() for name, value in kernel.state_dict().items()},
    )
    host_only = [one for name, one in growing.model.named_parameters() if "esper" not in name]
    growing.optimizer = SGD(host_only, lr=0.1)
    growing.seed_manager.set_optimizer(OptimizerMembership(growing.optimizer))
    assert_each_parameter_is_in_one_group(growing)
    growing.plant("conv", 0, "squeeze-excite")
    assert_each_parameter_is_in_one_group(growing)
    growing.train(2)
    assert not torch.equal(kernel.state_dict()["up.bias"], old["up.bias"])
    assert not before._optimizer_step_post_hooks


def test_an_optimizer_that_does_not_train_the_sites_changes_nothing() -> None:
    growing = GrowingHost()
    growing.plant("fc1", 0, "linear-bottleneck")
    with pytest.raises(ParameterUntrained, match="no parameter of conv"):
        growing.seed_manager.set_optimizer(
            OptimizerMembership(SGD(growing.model.fc1.parameters(), lr=0.1))
        )
    growing.plant("conv", 0, "squeeze-excite")
    assert_each_parameter_is_in_one_group(growing)


def test_the_lists_of_a_group_are_changed_in_place() -> None:
    growing = GrowingHost()
    held = growing.optimizer.param_groups[0]["params"]
    growing.plant("fc1", 0, "low-rank-skip")
    assert len(held) == len(list(growing.model.parameters()))
    growing.cull("fc1", 0)
    assert len(held) == len(list(growing.model.parameters()))


def test_two_plantings_of_one_blueprint_share_no_weights() -> None:
    growing = GrowingHost()
    kernels = [growing.plant("fc1", slot, "low-rank-skip") for slot in (0, 1)]
    growing.train(2)
    growing.cull("fc1", 0)
    before = {name: value.clone() for name, value in kernels[1].state_dict().items()}
    growing.train(2)
    for name, value in kernels[1].state_dict().items():
        assert not torch.equal(value, before[name]), name
