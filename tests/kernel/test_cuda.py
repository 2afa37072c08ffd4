"""Kernels on a GPU: every shipped one can be captured as a CUDA graph, and then computes the same.

These tests need a GPU; elsewhere they are skipped.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from esper.blueprint import shipped, shipped_named
from esper.compiler import BlueprintCompiler, KernelOptimizer, initial_tensors
from esper.kernel import Kernel
from esper.seed.cuda import garbage_collection_disabled
from esper.topics.models import SiteKind, SiteSignature

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SHAPES = {
    SiteKind.VECTOR: (64,),
    SiteKind.SEQUENCE: (16, 32),
    SiteKind.FEATURE_MAP: (16, 16, 16),
}
CASES = [(entry.blueprint_id, kind) for entry in shipped() for kind in entry.kinds]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

Tensors = tuple[Tensor, ...]


def kernel_at(name: str, kind: SiteKind) -> Kernel:
    """A kernel of a shipped blueprint on the GPU, with weights that do something."""
    site = SiteSignature(kind=kind, x=SHAPES[kind], h=SHAPES[kind], device="cuda")
    plan = KernelOptimizer().optimize(BlueprintCompiler().compile(shipped_named(name), site))
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in initial_tensors(plan).items()
    }
    return Kernel(plan, tensors, sha256="0" * 64).to("cuda")


def pass_of(
    kernel: Kernel, x: Tensor, h: Tensor, dtype: torch.dtype | None
) -> Callable[[], Tensors]:
    """A forward and a backward pass, which returns the result and every gradient."""

    def step() -> Tensors:
        with torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
            result = h + kernel(x, h)
        return result, *torch.autograd.grad(result.square().mean(), (h, *kernel.parameters()))

    return step


def captured(step: Callable[[], Tensors]) -> tuple[torch.cuda.CUDAGraph, Tensors]:
    """The graph of a step, and where its replays leave what the step returns."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another test's graph, collected in the middle of this capture, would spoil it.
    with garbage_collection_disabled(), torch.cuda.graph(graph):
        results = step()
    return graph, results


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_captured_kernel_computes_what_it_computes_eagerly(
    name: str, kind: SiteKind, precision: str
) -> None:
    kernel = kernel_at(name, kind).eval()
    x, h = (torch.randn(8, *SHAPES[kind], device="cuda") for _ in range(2))
    h.requires_grad_()
    step = pass_of(kernel, x, h, PRECISIONS[precision])
    graph, results = captured(step)
    with torch.no_grad():
        x.normal_()
        h.normal_()
    expected = step()
    graph.replay()
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_kernel_in_training_can_be_captured(name: str, kind: SiteKind) -> None:
    kernel = kernel_at(name, kind).train()
    x, h = (torch.randn(8, *SHAPES[kind], device="cuda") for _ in range(2))
    graph, results = captured(pass_of(kernel, x, h.requires_grad_(), None))
    graph.replay()
    assert all(bool(torch.isfinite(result).all()) for result in results)


def test_replays_draw_new_dropout_masks() -> None:
    kernel = kernel_at("dropout-mlp", SiteKind.VECTOR).train()
    x, h = (torch.randn(8, 64, device="cuda") for _ in range(2))
    graph, (result, *_) = captured(pass_of(kernel, x, h.requires_grad_(), None))
    graph.replay()
    first = result.clone()
    graph.replay()
    assert not torch.equal(result, first)
