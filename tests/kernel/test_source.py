"""The written source: plain PyTorch that computes what the kernel does, bit for bit."""

import pytest
import torch
from torch import nn

from esper.blueprint import shipped, shipped_named
from esper.compiler import BlueprintCompiler, initial_tensors
from esper.kernel import Kernel, KernelPlan, to_source
from esper.kernel.source import SOURCE_IMPORTS
from esper.topics.models import Blueprint, Node, SiteKind, SiteSignature

SITES = {
    SiteKind.FEATURE_MAP: SiteSignature(kind=SiteKind.FEATURE_MAP, x=(3, 6, 5), h=(8, 6, 5)),
    SiteKind.VECTOR: SiteSignature(kind=SiteKind.VECTOR, x=(12,), h=(16,)),
    SiteKind.SEQUENCE: SiteSignature(kind=SiteKind.SEQUENCE, x=(7, 12), h=(7, 16)),
}


def plan_of(blueprint: Blueprint, kind: SiteKind | None = None) -> KernelPlan:
    return BlueprintCompiler().compile(blueprint, SITES[kind or blueprint.kinds[0]])


def written(plan: KernelPlan) -> nn.Module:
    names: dict[str, type[nn.Module]] = {}
    exec(SOURCE_IMPORTS + to_source(plan, "Grown"), names)
    return names["Grown"]()


def odd_names() -> Blueprint:
    """A graph whose nodes are called what a module, Python or the source call otherwise."""
    names = ("forward", "lambda", "torch", "nn", "self", "super", "return")
    inputs = ("x", *names[:-1])
    nodes = tuple(
        Node(id=name, op="linear", inputs=(source,), args={"out": "D"})
        for name, source in zip(names, inputs, strict=True)
    )
    return Blueprint(blueprint_id="odd", kind=SiteKind.VECTOR, nodes=nodes, output=names[-1])


@pytest.mark.parametrize("training", [False, True], ids=["evaluates", "trains"])
@pytest.mark.parametrize(
    ("blueprint", "kind"),
    [(blueprint, kind) for blueprint in (*shipped(), odd_names()) for kind in blueprint.kinds],
    ids=lambda value: value.blueprint_id if isinstance(value, Blueprint) else value,
)
def test_the_source_computes_what_the_kernel_does(
    blueprint: Blueprint, kind: SiteKind, training: bool
) -> None:
    plan = plan_of(blueprint, kind)
    tensors = {name: torch.randn_like(value) for name, value in initial_tensors(plan).items()}
    kernel, module = Kernel(plan, tensors, sha256="0" * 64), written(plan)
    module.load_state_dict(kernel.state_dict())
    x, h = torch.randn(4, *plan.signature.x), torch.randn(4, *plan.signature.h)
    results = []
    for network in (module.train(training), kernel.train(training)):
        torch.manual_seed(5)
        results.append(network(x, h))
    assert torch.equal(*results)


def test_the_source_reads_as_written_by_hand() -> None:
    plan = plan_of(shipped_named("squeeze-excite"))
    assert (
        to_source(plan, "SqueezeExcite")
        == f'''\
class SqueezeExcite(nn.Module):
    """Kernel {plan.kernel_id[:12]}: x (3, 6, 5), h (8, 6, 5)."""

    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)
        self.birth_scale = nn.ParameterDict({{"weight": nn.Parameter(torch.ones(8, 1, 1))}})

    def forward(self, x, h):
        squeeze = h.mean(dim=(-2, -1), keepdim=True)
        reduce = self.reduce(squeeze)
        active = nn.functional.silu(reduce)
        expand = self.expand(active)
        gate = torch.sigmoid(expand)
        excite = h * gate
        birth_scale = excite * self.birth_scale["weight"]
        return birth_scale
'''
    )


@pytest.mark.parametrize("name", ["", "Two Words", "A:\n    pass\nimport os\nclass B"])
def test_a_class_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="class"):
        to_source(plan_of(shipped_named("low-rank-skip")), name)
