"""When a planted site on a GPU replays a graph, and when and why it runs eagerly instead.

A configuration (inputs, autocast, weights, kernels) that came several times in a row is recorded
between two steps, by `capture_due`; until then, and wherever a graph would not do what the eager
code does, the eager code runs. Each such pass is counted under its reason.
"""

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext

from esper.seed.capture import InputSpec, Recording, Setting
from esper.seed.parallel_branches import CapturedRegion
from esper.seed.streams import STREAMS, StreamManager

log = logging.getLogger("esper")

SETTLED: Final = 3
"""Passes of one configuration in a row before it is recorded: a last, smaller batch is not."""

MOST_GRAPHS: Final = 2
"""Recordings that a site keeps; each has memory of its own."""


class Eager(StrEnum):
    """Why a planted site did not replay a graph."""

    SETTLING = "settling"
    CHANGING = "changing"
    NO_GRADIENT = "no-gradient"
    EVALUATION = "evaluation"
    PER_SAMPLE_ALPHA = "per-sample-alpha"
    CHECKPOINT = "checkpoint"
    TRANSFORMED = "transformed"
    ANOMALY_DETECTION = "anomaly-detection"
    HOOKS = "hooks"
    CALLER_CAPTURES = "caller-captures"
    COMPILED_HOST = "compiled-host"
    IN_USE = "in-use"
    OTHER_WEIGHTS = "other-weights"
    OUT_OF_MEMORY = "out-of-memory"
    NOT_CAPTURABLE = "not-capturable"
    OFF = "off"


@dataclass(slots=True)
class CaptureStats:
    """What became of the passes of a planted site: replayed, or eager and why; what it cost."""

    captures: int = 0
    capture_ms: float = 0.0
    replays: int = 0
    fallbacks: Counter[Eager] = field(default_factory=Counter)

    @property
    def eager_steps(self) -> int:
        """Passes that were not replayed."""
        return self.fallbacks.total()


class Graph(Protocol):
    """A recording, as its site sees it."""

    def current(self) -> bool:
        """Whether it reads the tensors that the modules have now."""

    def in_use(self) -> bool:
        """Whether a backward pass may still need what the last call left."""

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Replay."""


Record = Callable[[CapturedRegion, Setting, StreamManager], Graph]


class _Key(NamedTuple):
    """What one recording serves; its buffers are safe on one stream only."""

    device: torch.device
    stream: int
    inputs: tuple[InputSpec, ...]
    autocast: torch.dtype | None
    deterministic: bool
    region: tuple[int, ...]


class SiteGraphs:
    """The recordings of one site, least recently used first, and what became of its passes."""

    def __init__(
        self,
        record: Record = Recording,
        streams: StreamManager = STREAMS,
        devices: tuple[str, ...] = ("cuda",),
    ) -> None:
        self.stats = CaptureStats()
        self.enabled = True
        self._record = record
        self._streams = streams
        self._devices = devices
        self.clear()

    def clear(self) -> None:
        """Forget every recording: other kernels are planted."""
        self._graphs: OrderedDict[_Key, Graph] = OrderedDict()
        self._refused: dict[_Key, Eager] = {}
        self._last: _Key | None = None
        self._in_a_row = 0
        self._due: tuple[_Key, CapturedRegion, Setting] | None = None

    def serves(self, tensor: Tensor) -> bool:
        """Whether graphs are made on the device of a tensor."""
        # Not a tensor: a stand-in that a tracer passes through the host.
        return isinstance(tensor, Tensor) and tensor.device.type in self._devices

    def run(
        self, region: CapturedRegion, inputs: tuple[Tensor, ...], streams: StreamManager
    ) -> Tensor:
        """Return what the region computes: replayed, or eagerly over `streams`."""
        reason = hindrance(region, inputs) if self.enabled else Eager.OFF
        if reason is None:
            key = _key(region, inputs)
            graph = self._graphs.get(key)
            if graph is None:
                return self._consider(key, region, inputs, streams)
            reason = self._hindrance_of(graph, key)
            if reason is None:
                self._graphs.move_to_end(key)
                self._last = None
                self.stats.replays += 1
                return graph(region, inputs)
        self.stats.fallbacks[reason] += 1
        return region.call(inputs, streams)

    def note(self, reason: Eager) -> None:
        """Count a pass that ran eagerly elsewhere."""
        self.stats.fallbacks[reason] += 1

    def capture(self) -> None:
        """Record what is due; a failure is logged once, and the eager path goes on serving."""
        due, self._due = self._due, None
        if due is None:
            return
        key, region, setting = due
        start = perf_counter()
        try:
            self._graphs[key] = self._recorded(region, setting)
        except torch.OutOfMemoryError as error:
            self._refuse(key, Eager.OUT_OF_MEMORY, error)
            return
        except (RuntimeError, ValueError, TypeError) as error:
            self._refuse(key, Eager.NOT_CAPTURABLE, error)
            return
        took_ms = (perf_counter() - start) * 1e3
        self.stats.captures += 1
        self.stats.capture_ms += took_ms
        log.info("recorded a site of %s in %.0f ms", _shapes(key.inputs), took_ms)
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)

    def _recorded(self, region: CapturedRegion, setting: Setting) -> Graph:
        try:
            return self._record(region, setting, self._streams)
        except torch.OutOfMemoryError:
            pass  # here the error still holds on to what the attempt allocated
        # While recording, the allocator may not give back what the eager passes left cached.
        torch.cuda.empty_cache()
        return self._record(region, setting, self._streams)

    def _refuse(self, key: _Key, reason: Eager, error: Exception) -> None:
        self._refused[key] = reason
        log.warning(
            "a site of %s stays eager: it could not be recorded as a graph: %s",
            _shapes(key.inputs),
            next(iter(str(error).splitlines()), type(error).__name__),
        )

    def _hindrance_of(self, graph: Graph, key: _Key) -> Eager | None:
        if not graph.current():
            del self._graphs[key]
            self._last = None
            return Eager.OTHER_WEIGHTS
        return Eager.IN_USE if graph.in_use() else None

    def _consider(
        self, key: _Key, region: CapturedRegion, inputs: tuple[Tensor, ...], streams: StreamManager
    ) -> Tensor:
        """Run eagerly, and count how often in a row this configuration came."""
        result = region.call(inputs, streams)
        if key in self._refused or not result.requires_grad:
            self.stats.fallbacks[self._refused.get(key, Eager.NO_GRADIENT)] += 1
            return result
        again = key == self._last
        self._last, self._in_a_row = key, self._in_a_row + 1 if again else 1
        self.stats.fallbacks[Eager.SETTLING if again else Eager.CHANGING] += 1
        if self._in_a_row >= SETTLED and self._due is None:
            self._due = key, region, Setting(key.device, key.inputs, key.autocast, result.stride())
            _WAITING.append(weakref.ref(self))
        return result

    def __deepcopy__(self, memo: Any) -> "SiteGraphs":
        """Return one without recordings: they are of the original's weights."""
        copied = SiteGraphs(self._record, self._streams, self._devices)
        copied.enabled = self.enabled
        return copied

    def __reduce__(self) -> Any:
        """Pickle as one without recordings."""
        return SiteGraphs, ()


_WAITING: Final[list[weakref.ref[SiteGraphs]]] = []


def capture_due() -> None:
    """Record what has settled: `Growth.step` calls it between two steps, a loop of your own may.

    It costs nothing when nothing is due.
    """
    while _WAITING:
        if (graphs := _WAITING.pop()()) is not None:
            graphs.capture()


def hindrance(region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Eager | None:
    """Return why a graph would not do what the eager code does on these inputs; None if it would.

    Hooks of the site's own layer run either way, around its forward; those within would not.
    """
    if not torch.is_grad_enabled():
        return Eager.NO_GRADIENT
    if inputs[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return Eager.CALLER_CAPTURES
    if _is_transformed(inputs):
        return Eager.TRANSFORMED
    if _is_checkpointed():
        return Eager.CHECKPOINT
    if torch.is_anomaly_enabled():
        # It looks at the gradient of each operation, for which a recording cannot wait.
        return Eager.ANOMALY_DETECTION
    return _hindrance_within(region)


def _is_transformed(inputs: tuple[Tensor, ...]) -> bool:
    """Whether a function transform, a mode or a subclass looks at the single operations."""
    return (
        any(type(each) not in (Tensor, nn.Parameter) for each in inputs)
        or peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or any(map(_looks_at_calls, range(torch._C._len_torch_function_stack())))
    )


def _looks_at_calls(depth: int) -> bool:
    # What `torch.set_default_device` pushes changes only how tensors are made.
    return not isinstance(torch._C._get_function_stack_at(depth), DeviceContext)


def _is_checkpointed() -> bool:
    """Whether saved tensors go through hooks, or a forward pass is made again in a backward."""
    return (
        torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
        or torch._C._current_graph_task_id() != -1
    )


def _hindrance_within(region: CapturedRegion) -> Eager | None:
    if region.layer is not None and not region.layer.training:
        return Eager.EVALUATION
    for seed in region.seeds:
        if not (seed.training and seed.kernel.training):
            return Eager.EVALUATION
        if seed.alpha.dim():
            return Eager.PER_SAMPLE_ALPHA
        if _has_hooks(seed) or _has_hooks(seed.kernel):
            return Eager.HOOKS
    anywhere: Callable[[], bool] = _has_any_global_hook
    return Eager.HOOKS if anywhere() else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _key(region: CapturedRegion, inputs: tuple[Tensor, ...]) -> _Key:
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    specs = tuple(
        [InputSpec(each.shape, each.stride(), each.dtype, each.requires_grad) for each in inputs]
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    which = tuple(map(id, region.modules))
    device = inputs[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if inputs[0].is_cuda else 0
    return _Key(device, stream, specs, autocast, deterministic, which)


def _shapes(inputs: tuple[InputSpec, ...]) -> str:
    return " and ".join(str(tuple(spec.size)) for spec in inputs)
