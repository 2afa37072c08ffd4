"""The executor: a kernel is an ordinary module, and looks its parameters up on every call."""

import copy
import pickle
import weakref

import pytest
import torch
from torch import Tensor

from esper.blueprint import shipped, shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer, initial_tensors
from esper.kernel import Kernel
from esper.kernel.executor import attribute_of
from esper.topics.models import Blueprint, Node, SiteKind, SiteSignature

SITES = {
    SiteKind.FEATURE_MAP: SiteSignature(kind=SiteKind.FEATURE_MAP, x=(3, 6, 6), h=(8, 6, 6)),
    SiteKind.SEQUENCE: SiteSignature(kind=SiteKind.SEQUENCE, x=(5, 12), h=(5, 16)),
    SiteKind.VECTOR: SiteSignature(kind=SiteKind.VECTOR, x=(12,), h=(16,)),
}


def kernel_of(blueprint: Blueprint) -> Kernel:
    """A kernel with weights that do something, as after training."""
    site = SITES[blueprint.kinds[0]]
    plan = KernelOptimizer().optimize(BlueprintCompiler().compile(blueprint, site))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: value + torch.randn(value.shape, generator=generator)
        for name, value in initial_tensors(plan).items()
    }
    return Kernel(plan, tensors, sha256="0" * 64)


def inputs_of(kernel: Kernel) -> tuple[Tensor, Tensor]:
    return torch.randn(5, *kernel.plan.signature.x), torch.randn(5, *kernel.plan.signature.h)


@pytest.fixture(params=[blueprint.blueprint_id for blueprint in shipped()])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel of each shipped blueprint, in evaluation, where none draws random numbers."""
    return kernel_of(shipped_named(request.param)).eval()


def test_a_kernel_has_the_metadata_of_its_artifact(kernel: Kernel) -> None:
    assert kernel.kernel_id == kernel.plan.kernel_id
    assert kernel.sha256 == "0" * 64
    assert kernel.params == sum(parameter.numel() for parameter in kernel.parameters())


def test_the_state_dict_has_the_names_of_the_plan(kernel: Kernel) -> None:
    assert list(kernel.state_dict()) == list(kernel.plan.parameters)


def test_a_deep_copy_computes_the_same_and_shares_no_parameter(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    before = kernel(x, h)
    twin = copy.deepcopy(kernel)
    assert torch.equal(twin(x, h), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x, h).any()
    assert torch.equal(kernel(x, h), before)


def test_a_pickled_kernel_computes_the_same_and_has_the_same_metadata(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    twin = pickle.loads(pickle.dumps(kernel))
    assert torch.equal(twin(x, h), kernel(x, h))
    assert (twin.plan, twin.sha256, twin.training) == (kernel.plan, kernel.sha256, False)


def test_a_pickled_kernel_can_be_trained() -> None:
    kernel = pickle.loads(pickle.dumps(kernel_of(shipped_named("linear-bottleneck"))))
    x, h = inputs_of(kernel)
    before = kernel(x, h)
    before.square().mean().backward()
    torch.optim.SGD(kernel.parameters(), lr=0.1).step()
    assert not torch.equal(kernel(x, h), before)


def test_a_kernel_built_twice_from_the_same_weights_shares_none(kernel: Kernel) -> None:
    tensors = kernel.state_dict()
    one, two = (Kernel(kernel.plan, tensors, kernel.sha256) for _ in range(2))
    pointers = {parameter.data_ptr() for parameter in (*one.parameters(), *two.parameters())}
    assert len(pointers) == 2 * len(list(kernel.parameters()))


def test_a_kernel_uses_its_new_dtype(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    single = kernel(x, h)
    double = kernel.double()(x.double(), h.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3)


def test_a_kernel_uses_a_loaded_state_dict(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    silent = Kernel(kernel.plan, initial_tensors(kernel.plan), kernel.sha256).eval()
    silent.load_state_dict(kernel.state_dict())
    assert torch.equal(silent(x, h), kernel(x, h))


def test_a_kernel_uses_the_parameters_of_a_functional_call(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    zeros = {name: torch.zeros_like(value) for name, value in kernel.named_parameters()}
    before = kernel(x, h)
    assert not torch.func.functional_call(kernel, zeros, (x, h)).any()
    assert torch.equal(kernel(x, h), before)


def test_a_kernel_uses_parameters_after_an_optimizer_step(kernel: Kernel) -> None:
    x, h = inputs_of(kernel)
    before = kernel(x, h)
    before.square().mean().backward()
    torch.optim.SGD(kernel.parameters(), lr=0.1).step()
    assert not torch.equal(kernel(x, h), before)


def test_a_value_is_dropped_after_its_last_use() -> None:
    chain = [Node(id="n0", op="relu", inputs=("h",))] + [
        Node(id=f"n{index}", op="relu", inputs=(f"n{index - 1}",)) for index in range(1, 20)
    ]
    blueprint = Blueprint(
        blueprint_id="chain", kind=SiteKind.VECTOR, nodes=tuple(chain), output="n19"
    )
    kernel = kernel_of(blueprint)
    alive: list[int] = []
    values: weakref.WeakSet[Tensor] = weakref.WeakSet()
    relu = kernel._program[0][1]

    def watched(value: Tensor) -> Tensor:
        result = relu(value)
        values.add(result)
        alive.append(len(values))
        return result

    program = tuple(
        (slot, watched if run is relu else run, operands, frees)
        for slot, run, operands, frees in kernel._program
    )
    kernel._program = kernel._training_program = program
    with torch.no_grad():
        kernel(*inputs_of(kernel))
    assert max(alive) == 2


@pytest.mark.parametrize("name", ["forward", "plan", "class", "train", "nn", "requires_grad_"])
def test_a_node_whose_name_means_something_in_a_module_still_runs(name: str) -> None:
    blueprint = Blueprint(
        blueprint_id="odd",
        kind=SiteKind.VECTOR,
        nodes=(Node(id=name, op="linear", inputs=("h",), args={"out": "D"}),),
        output=name,
    )
    kernel = kernel_of(blueprint)
    assert kernel(*inputs_of(kernel)).shape == (5, 16)
    assert f"{attribute_of(name)}.weight" in kernel.state_dict()


def dropping(p: float) -> Kernel:
    """A kernel that drops what it reads, then doubles it."""
    nodes = (
        Node(id="dropped", op="dropout", inputs=("h",), args={"p": p}),
        Node(id="doubled", op="add", inputs=("dropped", "dropped")),
        Node(id="factor", op="scale", inputs=("doubled",)),
    )
    blueprint = Blueprint(
        blueprint_id="dropping", kind=SiteKind.VECTOR, nodes=nodes, output="factor"
    )
    kernel = kernel_of(blueprint)
    with torch.no_grad():
        kernel.get_parameter("factor.weight").fill_(1.0)
    return kernel


def test_dropout_does_nothing_in_evaluation() -> None:
    x, h = torch.randn(5, 12), torch.randn(5, 16)
    assert torch.equal(dropping(0.5).eval()(x, h), h + h)


def test_dropout_draws_from_the_generator_of_torch_in_training() -> None:
    kernel, (x, h) = dropping(0.5).train(), (torch.randn(5, 12), torch.ones(200, 16))
    torch.manual_seed(3)
    first = kernel(x, h)
    assert set(first.unique().tolist()) == {0.0, 4.0}
    assert not torch.equal(kernel(x, h), first)
    torch.manual_seed(3)
    assert torch.equal(kernel(x, h), first)


def test_a_kernel_without_dropout_runs_one_program_in_both_modes() -> None:
    kernel = kernel_of(shipped_named("linear-bottleneck"))
    assert kernel._training_program is kernel._program
