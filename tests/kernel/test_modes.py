"""A kernel and the module that Esper writes from it: equal bit for bit, however they are run.

The module is `to_source` of the kernel's own plan. Equal are the result, and the gradients of
`h` and of every parameter.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.blueprint import shipped, shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer, initial_tensors
from esper.kernel import Kernel, to_source
from esper.kernel.source import SOURCE_IMPORTS
from esper.seed import Seed, SeedBank
from esper.topics.models import SiteKind, SiteSignature

SHAPES = {
    SiteKind.VECTOR: (16,),
    SiteKind.SEQUENCE: (6, 16),
    SiteKind.FEATURE_MAP: (8, 6, 6),
}
CASES = [(entry.blueprint_id, kind) for entry in shipped() for kind in entry.kinds]

Call = Callable[[Tensor, Tensor], Tensor]


def kernel_at(name: str, kind: SiteKind) -> Kernel:
    """A kernel of a shipped blueprint with weights that do something, in training."""
    site = SiteSignature(kind=kind, x=SHAPES[kind], h=SHAPES[kind])
    plan = KernelOptimizer().optimize(BlueprintCompiler().compile(shipped_named(name), site))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in initial_tensors(plan).items()
    }
    return Kernel(plan, tensors, sha256="0" * 64)


def plain_of(kernel: Kernel) -> nn.Module:
    names: dict[str, Any] = {}
    exec(SOURCE_IMPORTS + to_source(kernel.plan, "Plain"), names)
    module: nn.Module = names["Plain"]()
    module.load_state_dict(kernel.state_dict())
    return module


def eager(module: nn.Module) -> Call:
    return module


def autocast(module: nn.Module) -> Call:
    def call(x: Tensor, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result: Tensor = module(x, h)
        return result

    return call


def checkpointed(module: nn.Module, *, reentrant: bool) -> Call:
    return partial(checkpoint, module, use_reentrant=reentrant)


MODES = {
    "eager": eager,
    "autocast": autocast,
    "checkpoint": partial(checkpointed, reentrant=False),
    "checkpoint-reentrant": partial(checkpointed, reentrant=True),
}


def outcome(call: Call, module: nn.Module, x: Tensor, h: Tensor) -> dict[str, Tensor]:
    """The result and all gradients, the random numbers of dropout being those of one seed."""
    h = h.clone().requires_grad_()
    torch.manual_seed(7)
    result = call(x, h)
    (h + result).square().mean().backward()
    gradients = {name: value.grad for name, value in module.named_parameters()}
    found = {"result": result, "h": h.grad, **gradients}
    assert all(value is not None for value in found.values())
    module.zero_grad()
    return {name: value.detach() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_kernel_equals_its_plain_module_bit_for_bit(name: str, kind: SiteKind, mode: str) -> None:
    kernel = kernel_at(name, kind)
    plain = plain_of(kernel)
    x, h = torch.randn(4, *SHAPES[kind]), torch.randn(4, *SHAPES[kind])
    ours = outcome(MODES[mode](kernel), kernel, x, h)
    theirs = outcome(MODES[mode](plain), plain, x, h)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing_also_with_dropout(reentrant: bool) -> None:
    kernel = kernel_at("dropout-mlp", SiteKind.VECTOR)
    x, h = torch.randn(4, 16), torch.randn(4, 16)
    plainly = outcome(kernel, kernel, x, h)
    again = outcome(checkpointed(kernel, reentrant=reentrant), kernel, x, h)
    assert all(torch.equal(again[key], value) for key, value in plainly.items())


class Host(nn.Module):
    """A layer with a bank of seeds, as a grown host has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.bank = SeedBank()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.bank(x, self.layer(x))
        return result


def test_a_compiled_host_runs_every_kernel_and_is_compiled_once() -> None:
    torch._dynamo.reset()
    host, compiled_graphs = Host(), []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        compiled_graphs.append(graph)
        return graph.forward

    compiled = torch.compile(host, backend=backend)
    x = torch.randn(4, 16)
    host.bank.plant(0, Seed(kernel_at("low-rank-skip", SiteKind.VECTOR), 0.5))
    compiled(x)
    at_first = len(compiled_graphs)
    vectors = [name for name, kind in CASES if kind is SiteKind.VECTOR]
    assert len(vectors) > torch._dynamo.config.recompile_limit, "too few to reach torch's limit"
    for name in vectors:
        host.bank.remove(0)
        host.bank.plant(0, Seed(kernel_at(name, SiteKind.VECTOR), 0.5))
        for alpha in (0.5, 0.25):
            host.bank.seeds["0"].alpha.fill_(alpha)
            ours, theirs = outcome_of(compiled, host, x), outcome_of(host, host, x)
            for key, value in ours.items():
                torch.testing.assert_close(value, theirs[key], msg=f"{name}: {key}")
    assert len(compiled_graphs) == at_first
    nodes = [str(node.target) for graph in compiled_graphs for node in graph.graph.nodes]
    assert not [target for target in nodes if "bank" in target], "a kernel was compiled too"


def outcome_of(call: Callable[[Tensor], Tensor], host: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return outcome(lambda x, _: call(x), host, x, torch.zeros_like(x))


def test_a_kernel_alone_compiles_without_a_break() -> None:
    torch._dynamo.reset()
    kernel = kernel_at("self-attention", SiteKind.SEQUENCE)
    x, h = torch.randn(4, 6, 16), torch.randn(4, 6, 16)
    compiled = torch.compile(kernel, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, h), kernel(x, h))
