"""The optimiser: every pass keeps results, gradients and parameters, and is pure.

Results and gradients agree within 1e-9 of their size in double precision: what a pass changes is
the order in which numbers are added up, nothing else.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.hand_written import HAND_WRITTEN
from esper.blueprint import shipped
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.compiler.initialise import initial_tensors
from esper.compiler.passes import PASSES, Pass
from esper.compiler.passes.liveness import free_early
from esper.kernel import Kernel, KernelPlan
from esper.topics.models import Blueprint, Node, SiteKind, SiteSignature

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
SHAPES = {
    SiteKind.VECTOR: (16,),
    SiteKind.SEQUENCE: (6, 16),
    SiteKind.FEATURE_MAP: (8, 6, 6),
}
BLUEPRINTS = {blueprint.blueprint_id: blueprint for blueprint in (*shipped(), *HAND_WRITTEN)}
CASES = [(name, kind) for name, blueprint in BLUEPRINTS.items() for kind in blueprint.kinds]
DEVICES = ("cpu", "cuda")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan_of(blueprint: Blueprint, kind: SiteKind, device: str = "cpu") -> KernelPlan:
    site = SiteSignature(kind=kind, x=SHAPES[kind], h=SHAPES[kind], device=device)
    return BlueprintCompiler().compile(blueprint, site)


def graph(*rows: tuple[str, str, tuple[str, ...], dict[str, object]]) -> Blueprint:
    """A blueprint for feature maps, whose output is its last row."""
    nodes = tuple(Node(id=id_, op=op, inputs=inputs, args=args) for id_, op, inputs, args in rows)
    return Blueprint(
        blueprint_id="by-hand", kind=SiteKind.FEATURE_MAP, nodes=nodes, output=nodes[-1].id
    )


def ops_of(plan: KernelPlan) -> list[str]:
    return [step.op for step in plan.steps]


def kernel_of(plan: KernelPlan) -> Kernel:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: value + torch.randn(value.shape, generator=generator)
        for name, value in initial_tensors(plan).items()
    }
    return Kernel(plan, tensors, sha256="0" * 64).double().eval()


def outcome(plan: KernelPlan) -> dict[str, Tensor]:
    """The result and every gradient, of h and x too, for fixed inputs and weights."""
    kernel, generator = kernel_of(plan), torch.Generator().manual_seed(2)
    x, h = (
        torch.randn(4, *shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in (plan.signature.x, plan.signature.h)
    )
    result = kernel(x, h)
    leaves = {"x": x, "h": h, **dict(kernel.named_parameters())}
    gradients = torch.autograd.grad(
        result.square().mean(), tuple(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {"result": result, **dict(zip(leaves, gradients, strict=True))}


def assert_same(changed: KernelPlan, plan: KernelPlan) -> None:
    found, wanted = outcome(changed), outcome(plan)
    for key, value in wanted.items():
        assert torch.allclose(found[key], value, **TOLERANCE), key


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.name)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_pass_keeps_results_gradients_and_parameters(
    name: str, kind: SiteKind, each: Pass
) -> None:
    plan = plan_of(BLUEPRINTS[name], kind)
    changed = each.run(plan)
    assert list(changed.parameters.items()) == list(plan.parameters.items())
    if changed != plan:
        assert_same(changed, plan)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_optimiser_keeps_results_gradients_parameters_and_the_weights_of_birth(
    name: str, kind: SiteKind, device: str
) -> None:
    plan = plan_of(BLUEPRINTS[name], kind, device)
    changed = KernelOptimizer().optimize(plan)
    born, wanted = initial_tensors(changed), initial_tensors(plan)
    assert list(born) == list(wanted)
    assert all(torch.equal(born[name], value) for name, value in wanted.items())
    assert_same(changed, plan)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_optimiser_is_pure_and_has_nothing_left_to_do(name: str, kind: SiteKind) -> None:
    plan = plan_of(BLUEPRINTS[name], kind)
    before = plan.to_json()
    once = KernelOptimizer().optimize(plan)
    assert plan.to_json() == before
    assert KernelOptimizer().optimize(KernelPlan.from_json(before)).to_json() == once.to_json()
    assert KernelOptimizer().optimize(once) == once
    assert KernelPlan.from_json(once.to_json()) == once


@pytest.mark.parametrize("each", PASSES, ids=lambda each: each.name)
def test_a_pass_changes_a_kernel_of_the_benchmark(each: Pass) -> None:
    plans = [plan_of(BLUEPRINTS[name], kind) for name, kind in CASES]
    assert any(each.run(plan) != plan for plan in plans)


@pytest.mark.parametrize("device", DEVICES)
def test_only_passes_that_pay_on_its_device_change_a_plan(device: str) -> None:
    plan = plan_of(BLUEPRINTS["multi-scale-conv"], SiteKind.FEATURE_MAP, device)
    hand_written_cases = plan
    for optimizer_pass in PASSES:
        if device in optimizer_pass.devices:
            hand_written_cases = optimizer_pass.run(hand_written_cases)
    assert KernelOptimizer().optimize(plan) == free_early(hand_written_cases)
    assert ("conv2d_as_product" in ops_of(hand_written_cases)) == (device == "cpu")


def test_every_value_is_freed_once_by_its_last_reader() -> None:
    for name, kind in CASES:
        plan = free_early(plan_of(BLUEPRINTS[name], kind))
        freed = [slot for step in plan.steps for slot in step.frees]
        assert sorted(freed) == list(range(2, len(plan.steps) + 1))


def test_equal_steps_become_one_also_where_only_their_inputs_become_equal() -> None:
    plan = plan_of(
        graph(
            ("a", "sigmoid", ("h",), {}),
            ("b", "sigmoid", ("h",), {}),
            ("c", "tanh", ("a",), {}),
            ("d", "tanh", ("b",), {}),
            ("e", "mul", ("c", "d"), {}),
        ),
        SiteKind.FEATURE_MAP,
    )
    changed = run("common", plan)
    assert ops_of(changed) == ["sigmoid", "tanh", "mul", "scale"]
    assert_same(changed, plan)


@pytest.mark.parametrize(
    ("op", "args"), [("linear", {"out": "W"}), ("dropout", {"p": 0.5}), ("scale", {})]
)
def test_steps_that_learn_or_draw_are_never_the_same(op: str, args: dict[str, object]) -> None:
    plan = plan_of(
        graph(("a", op, ("h",), args), ("b", op, ("h",), args), ("c", "add", ("a", "b"), {})),
        SiteKind.FEATURE_MAP,
    )
    assert run("common", plan) == plan


def test_steps_that_differ_in_an_argument_are_not_the_same() -> None:
    plan = plan_of(
        graph(
            ("a", "roll", ("h",), {"by": 1, "dim": 1}),
            ("b", "roll", ("h",), {"by": 2, "dim": 1}),
            ("c", "add", ("a", "b"), {}),
        ),
        SiteKind.FEATURE_MAP,
    )
    assert run("common", plan) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"both": ("conv2d", ("h",), {"out": "2*C"}), "extra": ("tanh", ("gate",), {})},
        {"content": ("chunk", ("both",), {"parts": 2, "index": 1, "dim": 0})},
        {"logit": ("chunk", ("both",), {"parts": 2, "index": 0, "dim": 0})},
        {"gate": ("tanh", ("logit",), {})},
    ],
    ids=["the gate is read again", "the halves are one", "swapped", "another gate"],
)
def test_what_is_no_glu_stays(
    change: dict[str, tuple[str, tuple[str, ...], dict[str, object]]],
) -> None:
    rows = {
        "both": ("conv2d", ("h",), {"out": "2*C"}),
        "content": ("chunk", ("both",), {"parts": 2, "index": 0, "dim": 0}),
        "logit": ("chunk", ("both",), {"parts": 2, "index": 1, "dim": 0}),
        "gate": ("sigmoid", ("logit",), {}),
        "extra": ("tanh", ("h",), {}),
        "gated": ("mul", ("content", "gate"), {}),
        "sum": ("add", ("gated", "extra"), {}),
        **change,
    }
    plan = plan_of(graph(*((id_, *row) for id_, row in rows.items())), SiteKind.FEATURE_MAP)
    assert run("glu", plan) == plan


@pytest.mark.parametrize(
    ("args", "becomes"),
    [
        ({"out": "C", "kernel": 1}, "conv2d_as_product"),
        ({"out": "C", "kernel": 1, "bias": False}, "conv2d_as_product"),
        ({"out": "C", "kernel": 1, "groups": 2}, "conv2d"),
        ({"out": "C", "kernel": 3}, "conv2d"),
    ],
)
def test_a_convolution_becomes_a_product_only_where_it_is_one(
    args: dict[str, object], becomes: str
) -> None:
    plan = plan_of(graph(("mix", "conv2d", ("h",), args)), SiteKind.FEATURE_MAP)
    changed = run("conv-as-product", plan)
    assert ops_of(changed) == [becomes]
    assert_same(changed, plan)


def test_a_product_whose_gradients_outgrow_the_map_is_not_made() -> None:
    narrow = graph(
        ("small", "adaptive_avg_pool", ("h",), {"size": (2, 2)}),
        ("wide", "conv2d", ("small",), {"out": "C", "kernel": 1}),
        ("back", "upsample", ("wide",), {"size": ("H", "W")}),
    )
    plan = plan_of(narrow, SiteKind.FEATURE_MAP)
    assert run("conv-as-product", plan) == plan


def test_a_pass_that_would_exceed_a_limit_is_left_out() -> None:
    large = SiteSignature(
        kind=SiteKind.FEATURE_MAP, x=(1024, 128, 128), h=(1024, 128, 128), device="cpu"
    )
    plan = BlueprintCompiler().compile(graph(("a", "max_pool", ("h",), {})), large)
    assert ops_of(KernelOptimizer().optimize(plan)) == ["max_pool", "scale"]


def run(name: str, plan: KernelPlan) -> KernelPlan:
    return next(row for row in PASSES if row.name == name).run(plan)
