"""Recording the forward and the backward pass of a site as two CUDA graphs, wired to autograd.

A graph reads and writes at fixed addresses. Inputs are therefore copied into buffers of its own,
results out of them: what the caller gets is never overwritten by the next replay. What the kernels
add to h is summed up outside of the graph, into memory of the caller's, which saves a copy. Weights
and alphas are read where they are, so optimizers and ramps need no new recording.

Each recording has a pool of memory to itself. Recordings of several sites must not share one: what
a later recording keeps from forward to backward could lie where an earlier one writes.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from esper.seed.fused_sum import spread, terms, total
from esper.seed.parallel_branches import CapturedRegion, last_op
from esper.seed.streams import ONE_AFTER_ANOTHER, StreamManager

T = TypeVar("T")


class InputSpec(NamedTuple):
    """What a tensor must be like to be an input of a recording."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor where a module keeps it; `address` is that of its memory.

    Of a weight of a kernel's last op, `alpha` is where the factor of its result is kept, and
    `is_bias` is whether it is what a convolution over images adds.
    """

    owner: dict[str, Any]
    name: str
    tensor: Tensor
    address: int
    requires_grad: bool
    alpha: dict[str, Any] | None
    is_bias: bool

    def current(self) -> bool:
        """Whether the module still has this tensor there, as it was."""
        tensor = self.tensor
        return (
            self.owner.get(self.name) is tensor
            and tensor.data_ptr() == self.address
            and tensor.requires_grad == self.requires_grad
        )


def held(region: CapturedRegion) -> Iterator[Held]:
    """Yield every parameter and buffer that a region reads; a seed's alpha before its weights."""
    # The layer's own only: the seeds hang below it too.
    if region.layer is not None:
        yield from _held_by(region.layer)
    for seed in region.seeds:
        last = last_op(seed.kernel)
        for part in seed.modules():
            if part is last:
                conv = seed.kernel.plan.steps[-1].op == "conv2d"
                yield from _held_by(part, seed._buffers, conv)
            else:
                yield from _held_by(part)


def _held_by(
    part: nn.Module, alpha: dict[str, Any] | None = None, conv: bool = False
) -> Iterator[Held]:
    owners: tuple[dict[str, Any], ...] = (part._buffers, part._parameters)
    for owner in owners:
        for name, tensor in owner.items():
            if tensor is not None:
                kept = tensor, tensor.data_ptr(), tensor.requires_grad
                yield Held(owner, name, *kept, alpha, conv and name == "bias")


class Setting(NamedTuple):
    """How a region is called: on which device and inputs, under which autocast, with what result.

    `output` is the stride of the eager result, which the replayed one has too.
    """

    device: torch.device
    inputs: tuple[InputSpec, ...]
    autocast: torch.dtype | None
    output: tuple[int, ...]


class Recording:
    """A region as two graphs; call it as the region, with inputs like those of its setting."""

    def __init__(
        self,
        region: CapturedRegion,
        setting: Setting,
        streams: StreamManager,
        *,
        fused: bool = True,
    ) -> None:
        """Record, alphas and sums fused unless told; raises what CUDA says if it cannot."""
        self._setting = setting
        self._fused = fused
        self._held = tuple(held(region))
        self.count = len(setting.inputs)
        self._token: weakref.ref[_Token] | None = None
        with torch.cuda.device(setting.device), torch.enable_grad(), _same_random_numbers():
            self._record(region, streams)

    def current(self) -> bool:
        """Whether the modules still have the tensors that the graphs read."""
        return all(map(Held.current, self._held))

    def in_use(self) -> bool:
        """Whether a backward pass may still read what the last replay left."""
        return self._token is not None and self._token() is not None

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what the region computes of these inputs."""
        apply: Any = _Replay.apply
        result: Tensor = apply(self, region, *inputs, *(each.tensor for each in self._held))
        return result

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Replay the forward pass; the result is the caller's."""
        for buffer, given in zip(self._inputs, inputs, strict=True):
            buffer.copy_(given)
        self._forward.replay()
        if len(self._terms) == 1:
            return _strided_like(self._terms[0], self._setting.output)
        y = total(self._terms)
        return y if y.stride() == self._setting.output else _strided_like(y, self._setting.output)

    def backward(self, grad: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return the gradient of each input, then each held tensor's."""
        self._grad_output.copy_(grad)
        self._backward.replay()
        inputs = zip(self._grad_inputs, self._setting.inputs, strict=True)
        return [
            *(
                None if found is None else _strided_like(found, spec.stride)
                for found, spec in inputs
            ),
            *self._packed.unpack(),
        ]

    def again(
        self, region: CapturedRegion, inputs: Sequence[Tensor], grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients that `backward` does, such that they can be differentiated.

        Raises:
            RuntimeError: the region draws random numbers, and would draw others now.
        """
        if region.draws():
            raise RuntimeError(
                "a kernel that draws random numbers was replayed from a graph, whose gradient "
                "cannot be differentiated again; set bank.graphs.enabled = False at this site"
            )
        with torch.enable_grad(), _autocast(self._setting):
            result = region.call(inputs, ONE_AFTER_ANOTHER)
        tensors = (*inputs, *(each.tensor for each in self._held))
        return _gradients((result,), tensors, grad, create_graph=True)

    def begin(self) -> "_Token":
        """Mark the start of a forward pass; while the token lives, its backward may come."""
        token = _Token()
        self._token = weakref.ref(token)
        return token

    def end(self) -> None:
        """Mark the end of a backward pass that will not be asked for again."""
        self._token = None

    def _record(self, region: CapturedRegion, streams: StreamManager) -> None:
        device = self._setting.device
        self._inputs = tuple(self._buffer(spec) for spec in self._setting.inputs)
        stand_ins = tuple(each.tensor.detach() for each in self._held)
        # Leaves of their own: those of the caller may be part of an autograd graph that lives,
        # on a stream that must not become part of this recording.
        for stand_in, each in zip(stand_ins, self._held, strict=True):
            stand_in.requires_grad_(each.requires_grad)
        leaves = (*self._inputs, *stand_ins)
        # Libraries make ready what they need at their first call, which cannot be recorded.
        found = self._call(region, stand_ins, ONE_AFTER_ANOTHER)
        with torch.no_grad():
            y = total(found)
        _gradients(found, leaves, y)
        del found, y
        pool = torch.cuda.graph_pool_handle()
        here, stream = torch.cuda.current_stream(), streams.capturing(device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream), no_collection():
            self._forward, self._terms = _graph(
                pool, lambda: self._call(region, stand_ins, streams)
            )
            self._grad_output = torch.empty_like(self._terms[0])

            def gradients() -> tuple[tuple[Tensor | None, ...], Packed]:
                found = _gradients(self._terms, leaves, self._grad_output, retain_graph=True)
                return found[: self.count], Packed(found[self.count :], stand_ins)

            self._backward, (self._grad_inputs, self._packed) = _graph(pool, gradients)
        here.wait_stream(stream)

    def _call(
        self, region: CapturedRegion, stand_ins: Sequence[Tensor], streams: StreamManager
    ) -> tuple[Tensor, ...]:
        """Return the terms of the result, or the result where sums are not fused."""
        with _autocast(self._setting), swapped(self._held, stand_ins, fused=self._fused):
            # Views: a gradient that comes from several streams then meets on this one.
            inputs = [each.view_as(each) for each in self._inputs]
            if not self._fused:
                return (region.call(inputs, streams),)
            return terms(region.seeds, *region.terms(inputs, streams, spread))

    def _buffer(self, spec: InputSpec) -> Tensor:
        """Return a leaf for copies of an input, laid out as the input is where that has no gaps."""
        device = self._setting.device
        given = torch.empty_strided(spec.size, spec.stride, dtype=spec.dtype, device="meta")
        made = torch.zeros_like(given, device=device)
        return made.requires_grad_(spec.requires_grad)


@contextmanager
def swapped(tensors: Sequence[Held], stand_ins: Sequence[Tensor], *, fused: bool) -> Iterator[None]:
    """Let modules read stand-ins for their tensors, made ready for `terms` if `fused`."""
    try:
        for each, stand_in in zip(tensors, stand_ins, strict=True):
            each.owner[each.name] = stand_in
        if fused:
            _fuse([each for each in tensors if each.alpha is not None])
        yield
    finally:
        for each in tensors:
            each.owner[each.name] = each.tensor


def _fuse(last: Sequence[Held]) -> None:
    """Multiply the weights of the kernels' last ops by alpha, and add their biases to one.

    A last op is linear in its weights, so that the kernel's result is multiplied: a small product
    in place of a large one, both ways. Each bias of a convolution is a pass over memory, both
    ways; one of the kernels adds them all.
    """
    for each in last:
        assert each.alpha is not None
        each.owner[each.name] = each.alpha["alpha"] * each.owner[each.name]
    images = [each.owner for each in last if each.is_bias]
    if len(images) > 1:
        first, *others = images
        first["bias"] = torch.stack([owner["bias"] for owner in images]).sum(0)
        for owner in others:
            owner["bias"] = None


class Packed:
    """Gradients of weights side by side in one tensor for each dtype, so that a copy is one call.

    The copy is needed: autograd keeps what it is given as `grad`, and adds to it in place.
    """

    def __init__(self, found: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> None:
        """Pack gradients, None for none, in the memory order of the tensors that they are of."""
        self._count = len(found)
        self._groups: list[_Group] = []
        for dtype in dict.fromkeys(grad.dtype for grad in found if grad is not None):
            places, like, parts = [], [], []
            for place, (grad, tensor) in enumerate(zip(found, tensors, strict=True)):
                if grad is not None and grad.dtype == dtype:
                    order = _memory_order(tensor)
                    places.append(place)
                    like.append(tensor.detach().permute(order))
                    parts.append(grad.detach().permute(order).reshape(-1))
            orders = [_memory_order(tensors[place]) for place in places]
            back = [None if _is_sorted(order) else _inverse(order) for order in orders]
            self._groups.append(_Group(torch.cat(parts), tuple(places), tuple(like), tuple(back)))

    def unpack(self) -> list[Tensor | None]:
        """Return a copy of each gradient, in the order in which they were given."""
        result: list[Tensor | None] = [None] * self._count
        for group in self._groups:
            copies = _unflatten(group.flat.clone(), group.like)
            for place, copied, back in zip(group.places, copies, group.back, strict=True):
                result[place] = copied if back is None else copied.permute(back)
        return result


class _Group(NamedTuple):
    """Gradients of one dtype: all in one tensor, where each belongs, what it looks like there."""

    flat: Tensor
    places: tuple[int, ...]
    like: tuple[Tensor, ...]
    back: tuple[tuple[int, ...] | None, ...]


def _unflatten(flat: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    split: Callable[..., tuple[Tensor, ...]] = _unflatten_dense_tensors
    return split(flat, like)


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dims from the one of the largest stride to that of the smallest."""
    return tuple(sorted(range(tensor.dim()), key=tensor.stride().__getitem__, reverse=True))


def _is_sorted(order: tuple[int, ...]) -> bool:
    return order == tuple(range(len(order)))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(dim) for dim in range(len(order)))


class _Token:
    """Lives as long as the autograd graph of one replay."""


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recording: Recording, region: CapturedRegion, *tensors: Tensor) -> Tensor:
        count = recording.count
        ctx.recording, ctx.region = recording, region
        ctx.token = recording.begin()
        ctx.inputs = tensors[:count]
        ctx.versions = [each._version for each in ctx.inputs]
        # For their versions: weights changed before the backward pass are an error, as ever.
        ctx.save_for_backward(*tensors[count:])
        return recording.forward(ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        recording: Recording = ctx.recording
        _ = ctx.saved_tensors
        if torch.is_grad_enabled():
            if [each._version for each in ctx.inputs] != ctx.versions:
                raise RuntimeError("the input of a site was changed in place before its backward")
            return None, None, *recording.again(ctx.region, ctx.inputs, grads[0])
        result = None, None, *recording.backward(grads[0])
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            recording.end()
            ctx.inputs = ()
        return result


def _graph(pool: Any, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    graph = torch.cuda.CUDAGraph()
    # Other threads may use CUDA meanwhile, a loader of data or of kernels: not their mistake.
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        result = work()
        graph.capture_end()
    except BaseException:
        with suppress(RuntimeError):
            graph.capture_end()
        # Were the allocator left believing that a recording goes on, it would free nothing more.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise
    return graph, result


def _gradients(
    found: Sequence[Tensor], leaves: Sequence[Tensor], grad: Tensor, **keep: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradient of each leaf, None where there is none; `grad` is of the terms' sum."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    # In a host that is frozen h has no gradient.
    summed = [each for each in found if each.requires_grad]
    grads = [grad] * len(summed)
    result = iter(torch.autograd.grad(summed, wanted, grads, allow_unused=True, **keep))
    return tuple([next(result) if leaf.requires_grad else None for leaf in leaves])


def _strided_like(source: Tensor, stride: tuple[int, ...]) -> Tensor:
    return source.new_empty_strided(source.shape, stride).copy_(source)


def _autocast(setting: Setting) -> torch.autocast:
    # Without the cache: a cached cast would be of the weights at the time of the recording.
    enabled = setting.autocast is not None
    return torch.autocast("cuda", setting.autocast, enabled=enabled, cache_enabled=False)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the random numbers of the current GPU where they were."""
    state = torch.cuda.get_rng_state()
    try:
        yield
    finally:
        torch.cuda.set_rng_state(state)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector away: it could free a graph, which no recording survives."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
