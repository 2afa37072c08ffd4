"""The forward and backward pass of a site as two CUDA graphs, wired to autograd.

A graph reads and writes fixed addresses. Inputs are therefore copied into static inputs, and
outputs are copied out, so the next replay never overwrites a caller's tensors. The terms of y are
summed outside of the graph, directly into the caller's memory, which saves a copy. Weights and
alphas are read in place, so optimizers and ramps need no new capture.

Each captured graph has its own memory pool. A pool shared by two sites would be wrong: tensors
that one graph keeps from forward to backward could be at addresses that the other writes.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from esper.errors import EsperError
from esper.seed.cuda.captured_tensors import CapturedTensor, captured_tensors, tensors_replaced
from esper.seed.cuda.fused_sum import fan_out, fused_sum, sum_terms
from esper.seed.cuda.packed_gradients import PackedGradients
from esper.seed.cuda.parallel_branches import CapturedRegion
from esper.seed.cuda.streams import NO_SIDE_STREAMS, StreamManager
from esper.seed.private_torch import backward_keeps_graph, end_allocation_to_pool, tensor_version

T = TypeVar("T")


class ReplayedGradientError(EsperError, RuntimeError):
    """A replayed pass cannot be differentiated again."""


class InputSpec(NamedTuple):
    """Properties that an input must have to be copied into a static input."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool


class CallSpec(NamedTuple):
    """How a region is called: device, inputs, autocast dtype, and the stride of the output.

    A replay returns its output with the stride that the eager pass has.
    """

    device: torch.device
    inputs: tuple[InputSpec, ...]
    autocast: torch.dtype | None
    output_stride: tuple[int, ...]


class CapturedGraph:
    """A region as two graphs; call it as the region, with inputs that match its `CallSpec`."""

    def __init__(
        self,
        region: CapturedRegion,
        spec: CallSpec,
        streams: StreamManager,
        *,
        fused: bool = True,
    ) -> None:
        """Capture the region; `fused` multiplies alphas into weights and sums in one pass.

        Raises:
            RuntimeError: CUDA cannot capture the region.
        """
        self._spec = spec
        self._fused = fused
        self._tensors = tuple(captured_tensors(region))
        self.input_count = len(spec.inputs)
        self._token: weakref.ref[_Token] | None = None
        with torch.cuda.device(spec.device), torch.enable_grad(), _rng_state_kept():
            self._capture(region, streams)

    def is_current(self) -> bool:
        """Return whether the modules still hold the tensors that the graphs read."""
        return all(map(CapturedTensor.is_current, self._tensors))

    def in_use(self) -> bool:
        """Return whether a backward pass may still read the memory of the last replay."""
        return self._token is not None and self._token() is not None

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the region's output for these inputs, by a replay that autograd records."""
        apply: Any = _Replay.apply
        tensors = [captured.tensor for captured in self._tensors]
        result: Tensor = apply(self, region, *inputs, *tensors)
        return result

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Replay the forward pass; return a tensor that later replays do not overwrite."""
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given)
        self._forward.replay()
        stride = self._spec.output_stride
        if len(self._terms) == 1:
            return _copy_with_stride(self._terms[0], stride)
        y = fused_sum(self._terms)
        return y if y.stride() == stride else _copy_with_stride(y, stride)

    def backward(self, grad: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return gradients of the inputs, then of captured tensors."""
        self._grad_output.copy_(grad)
        self._backward.replay()
        inputs = zip(self._grad_inputs, self._spec.inputs, strict=True)
        return [
            *(
                None if found is None else _copy_with_stride(found, spec.stride)
                for found, spec in inputs
            ),
            *self._packed.unpack(),
        ]

    def differentiable_backward(
        self, region: CapturedRegion, inputs: Sequence[Tensor], grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the same gradients as `backward`, computed eagerly with a graph of their own.

        Raises:
            ReplayedGradientError: the region draws random numbers, and would draw others now.
        """
        if region.draws_random_numbers():
            raise ReplayedGradientError(
                "a kernel that draws random numbers was replayed from a graph, whose gradient "
                "cannot be differentiated again; set bank.graphs.enabled = False at this site"
            )
        with torch.enable_grad(), _autocast(self._spec):
            result = region.call(inputs, NO_SIDE_STREAMS)
        leaves = (*inputs, *(captured.tensor for captured in self._tensors))
        return _gradients((result,), leaves, grad, create_graph=True)

    def begin(self) -> "_Token":
        """Mark the start of a forward pass; its backward may come while the token lives."""
        token = _Token()
        self._token = weakref.ref(token)
        return token

    def end(self) -> None:
        """Mark the end of a backward pass that cannot run again."""
        self._token = None

    def _capture(self, region: CapturedRegion, streams: StreamManager) -> None:
        self._inputs = tuple(self._static_input(spec) for spec in self._spec.inputs)
        stand_ins = tuple(captured.tensor.detach() for captured in self._tensors)
        # New leaves: the caller's may be part of a live autograd graph, on a stream that must not
        # become part of this capture.
        for stand_in, captured in zip(stand_ins, self._tensors, strict=True):
            stand_in.requires_grad_(captured.requires_grad)
        leaves = (*self._inputs, *stand_ins)
        self._warm_up(region, stand_ins, leaves)
        pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream()
        stream = streams.capture_stream(self._spec.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream), garbage_collection_disabled():
            self._forward, self._terms = _captured(
                pool, lambda: self._call(region, stand_ins, streams)
            )
            self._grad_output = torch.empty_like(self._terms[0])

            def gradients() -> tuple[tuple[Tensor | None, ...], PackedGradients]:
                found = _gradients(self._terms, leaves, self._grad_output, retain_graph=True)
                count = self.input_count
                return found[:count], PackedGradients(found[count:], stand_ins)

            self._backward, (self._grad_inputs, self._packed) = _captured(pool, gradients)
        current.wait_stream(stream)

    def _warm_up(
        self, region: CapturedRegion, stand_ins: Sequence[Tensor], leaves: Sequence[Tensor]
    ) -> None:
        """Run both passes once: libraries initialise at their first call, outside of a capture."""
        terms = self._call(region, stand_ins, NO_SIDE_STREAMS)
        with torch.no_grad():
            y = fused_sum(terms)
        _gradients(terms, leaves, y)

    def _call(
        self, region: CapturedRegion, stand_ins: Sequence[Tensor], streams: StreamManager
    ) -> tuple[Tensor, ...]:
        """Return the terms of the output, or the output if sums are not fused."""
        with (
            _autocast(self._spec),
            tensors_replaced(self._tensors, stand_ins, fused=self._fused),
        ):
            # Through views, gradients from several streams are accumulated on this one.
            inputs = [static.view_as(static) for static in self._inputs]
            if not self._fused:
                return (region.call(inputs, streams),)
            return sum_terms(region.seeds, *region.outputs(inputs, streams, fan_out))

    def _static_input(self, spec: InputSpec) -> Tensor:
        """Return a leaf for copies of an input, with the input's layout if that is dense."""
        meta = torch.empty_strided(spec.size, spec.stride, dtype=spec.dtype, device="meta")
        static = torch.zeros_like(meta, device=self._spec.device)
        return static.requires_grad_(spec.requires_grad)


class _Token:
    """An object with the lifetime of the autograd graph of one replay."""


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: CapturedGraph, region: CapturedRegion, *tensors: Tensor) -> Tensor:
        count = graph.input_count
        ctx.graph, ctx.region = graph, region
        ctx.token = graph.begin()
        ctx.inputs = tensors[:count]
        ctx.versions = list(map(tensor_version, ctx.inputs))
        # Saved for their versions: changing a weight before the backward pass stays an error.
        ctx.save_for_backward(*tensors[count:])
        return graph.forward(ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        graph: CapturedGraph = ctx.graph
        _ = ctx.saved_tensors
        if torch.is_grad_enabled():
            if list(map(tensor_version, ctx.inputs)) != ctx.versions:
                raise ReplayedGradientError(
                    "the input of a site was changed in place before its backward; clone it first"
                )
            gradients = graph.differentiable_backward(ctx.region, ctx.inputs, grads[0])
            return None, None, *gradients
        result = None, None, *graph.backward(grads[0])
        if not backward_keeps_graph():
            graph.end()
            ctx.inputs = ()
        return result


def _captured(pool: Any, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """Return the graph of the launches that `work` makes, and the result of `work`."""
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as data loaders or the kernel loader, may use CUDA meanwhile.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        result = work()
        graph.capture_end()
    except BaseException:
        with suppress(RuntimeError):
            graph.capture_end()
        # Otherwise the allocator assumes that the capture goes on, and frees no more memory.
        with suppress(RuntimeError):
            end_allocation_to_pool(pool)
        raise
    return graph, result


def _gradients(
    terms: Sequence[Tensor], leaves: Sequence[Tensor], grad: Tensor, **options: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradient of each leaf, None where absent; `grad` is that of the terms' sum."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    # In a frozen host h has no gradient.
    differentiable = [term for term in terms if term.requires_grad]
    grads = [grad] * len(differentiable)
    found = iter(torch.autograd.grad(differentiable, wanted, grads, allow_unused=True, **options))
    return tuple([next(found) if leaf.requires_grad else None for leaf in leaves])


def _copy_with_stride(source: Tensor, stride: tuple[int, ...]) -> Tensor:
    return source.new_empty_strided(source.shape, stride).copy_(source)


def _autocast(spec: CallSpec) -> torch.autocast:
    # Without the cache, which would return casts of the weights at the time of the capture.
    enabled = spec.autocast is not None
    return torch.autocast("cuda", spec.autocast, enabled=enabled, cache_enabled=False)


@contextmanager
def _rng_state_kept() -> Iterator[None]:
    """Restore the random number state of the current GPU at exit."""
    state = torch.cuda.get_rng_state()
    try:
        yield
    finally:
        torch.cuda.set_rng_state(state)


@contextmanager
def garbage_collection_disabled() -> Iterator[None]:
    """Disable the garbage collector: it could free a graph, which invalidates a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
