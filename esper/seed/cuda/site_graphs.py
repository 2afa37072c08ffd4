"""The captured graphs of a site: when they are captured, replayed and dropped.

A configuration (inputs, autocast, weights, kernels) that came several times in a row is captured
between two steps, by `capture_due`. Until then, and wherever a replay would differ from the eager
pass, the site runs eagerly. Each eager pass is counted under its reason.
"""

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from esper.seed.cuda.captured_graph import CallSpec, CapturedGraph, InputSpec
from esper.seed.cuda.eager_reasons import EagerReason, eager_reason
from esper.seed.cuda.parallel_branches import CapturedRegion
from esper.seed.cuda.streams import STREAMS, StreamManager

log = logging.getLogger("esper")

PASSES_BEFORE_CAPTURE: Final = 3
"""Passes of one configuration in a row before its capture; excludes a last, smaller batch."""

MAX_GRAPHS: Final = 2
"""Captured graphs that a site keeps; each has its own memory."""


@dataclass(slots=True)
class CaptureStats:
    """Passes of a planted site, replayed or eager by reason; captures and their time."""

    captures: int = 0
    capture_ms: float = 0.0
    replays: int = 0
    fallbacks: Counter[EagerReason] = field(default_factory=Counter)

    @property
    def eager_steps(self) -> int:
        """Passes that were not replayed."""
        return self.fallbacks.total()


class SiteGraph(Protocol):
    """What a site needs of a captured graph."""

    def is_current(self) -> bool:
        """Return whether the modules still hold the tensors that the graph reads."""

    def in_use(self) -> bool:
        """Return whether a backward pass may still need the memory of the last call."""

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Replay."""


Capture = Callable[[CapturedRegion, CallSpec, StreamManager], SiteGraph]


class _Key(NamedTuple):
    """The configuration of one graph; its static inputs are safe on one stream only."""

    device: torch.device
    stream: int
    inputs: tuple[InputSpec, ...]
    autocast: torch.dtype | None
    deterministic: bool
    region: tuple[int, ...]


class SiteGraphs:
    """The captured graphs of one site, least recently used first, and counts of its passes."""

    def __init__(
        self,
        capture: Capture = CapturedGraph,
        streams: StreamManager = STREAMS,
        devices: tuple[str, ...] = ("cuda",),
    ) -> None:
        self.stats = CaptureStats()
        self.enabled = True
        self._capture = capture
        self._streams = streams
        self._devices = devices
        self.clear()

    def clear(self) -> None:
        """Drop every graph, as when the planted kernels change."""
        self._graphs: OrderedDict[_Key, SiteGraph] = OrderedDict()
        self._failed: dict[_Key, EagerReason] = {}
        self._last_key: _Key | None = None
        self._in_a_row = 0
        self._due: tuple[_Key, CapturedRegion, CallSpec] | None = None

    def supports(self, tensor: Tensor) -> bool:
        """Return whether graphs are captured on the device of a tensor."""
        # A tracer may pass a proxy that is no tensor.
        return isinstance(tensor, Tensor) and tensor.device.type in self._devices

    def run(
        self, region: CapturedRegion, inputs: tuple[Tensor, ...], streams: StreamManager
    ) -> Tensor:
        """Return the region's output, replayed, or computed eagerly on `streams`."""
        reason = eager_reason(region, inputs) if self.enabled else EagerReason.OFF
        if reason is None:
            key = _key(region, inputs)
            graph = self._graphs.get(key)
            if graph is None:
                return self._run_uncaptured(key, region, inputs, streams)
            reason = self._reason_against(graph, key)
            if reason is None:
                self._graphs.move_to_end(key)
                self._last_key = None
                self.stats.replays += 1
                return graph(region, inputs)
        self.stats.fallbacks[reason] += 1
        return region.call(inputs, streams)

    def count_eager(self, reason: EagerReason) -> None:
        """Count a pass that ran eagerly outside of `run`."""
        self.stats.fallbacks[reason] += 1

    def capture_due(self) -> None:
        """Capture the configuration that is due; log a failure once and stay eager."""
        due, self._due = self._due, None
        if due is None:
            return
        key, region, spec = due
        start = perf_counter()
        try:
            self._graphs[key] = self._captured(region, spec)
        except torch.OutOfMemoryError as error:
            self._fail(key, EagerReason.OUT_OF_MEMORY, error)
            return
        except (RuntimeError, ValueError, TypeError) as error:
            self._fail(key, EagerReason.NOT_CAPTURABLE, error)
            return
        capture_ms = (perf_counter() - start) * 1e3
        self.stats.captures += 1
        self.stats.capture_ms += capture_ms
        log.info("captured a site of %s in %.0f ms", _shapes(key.inputs), capture_ms)
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)

    def _captured(self, region: CapturedRegion, spec: CallSpec) -> SiteGraph:
        try:
            return self._capture(region, spec, self._streams)
        except torch.OutOfMemoryError:
            pass  # leave the handler first: the error keeps the attempt's memory alive
        # During a capture the allocator cannot release memory that eager passes left cached.
        torch.cuda.empty_cache()
        return self._capture(region, spec, self._streams)

    def _fail(self, key: _Key, reason: EagerReason, error: Exception) -> None:
        self._failed[key] = reason
        log.warning(
            "a site of %s stays eager: it could not be captured as a graph: %s",
            _shapes(key.inputs),
            next(iter(str(error).splitlines()), type(error).__name__),
        )

    def _reason_against(self, graph: SiteGraph, key: _Key) -> EagerReason | None:
        if not graph.is_current():
            del self._graphs[key]
            self._last_key = None
            return EagerReason.OTHER_WEIGHTS
        return EagerReason.IN_USE if graph.in_use() else None

    def _run_uncaptured(
        self, key: _Key, region: CapturedRegion, inputs: tuple[Tensor, ...], streams: StreamManager
    ) -> Tensor:
        """Run eagerly, and count how often in a row this configuration came."""
        result = region.call(inputs, streams)
        if key in self._failed or not result.requires_grad:
            self.stats.fallbacks[self._failed.get(key, EagerReason.NO_GRADIENT)] += 1
            return result
        is_repeated = key == self._last_key
        self._last_key, self._in_a_row = key, self._in_a_row + 1 if is_repeated else 1
        reason = EagerReason.SETTLING if is_repeated else EagerReason.CHANGING
        self.stats.fallbacks[reason] += 1
        if self._in_a_row >= PASSES_BEFORE_CAPTURE and self._due is None:
            spec = CallSpec(key.device, key.inputs, key.autocast, result.stride())
            self._due = key, region, spec
            _WAITING.append(weakref.ref(self))
        return result

    def __deepcopy__(self, memo: Any) -> "SiteGraphs":
        """Return a copy without graphs, which read the original's weights."""
        copied = SiteGraphs(self._capture, self._streams, self._devices)
        copied.enabled = self.enabled
        return copied

    def __reduce__(self) -> Any:
        """Pickle without graphs."""
        return SiteGraphs, ()


_WAITING: Final[list[weakref.ref[SiteGraphs]]] = []


def capture_due() -> None:
    """Capture the configurations that are due, if any.

    `Growth.step` calls this between two steps; a loop without `grow` may call it too.
    """
    while _WAITING:
        if (graphs := _WAITING.pop()()) is not None:
            graphs.capture_due()


def _key(region: CapturedRegion, inputs: tuple[Tensor, ...]) -> _Key:
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    specs = tuple(
        [
            InputSpec(value.shape, value.stride(), value.dtype, value.requires_grad)
            for value in inputs
        ]
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    module_ids = tuple(map(id, region.modules))
    device = inputs[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if inputs[0].is_cuda else 0
    return _Key(device, stream, specs, autocast, deterministic, module_ids)


def _shapes(inputs: tuple[InputSpec, ...]) -> str:
    return " and ".join(str(tuple(spec.size)) for spec in inputs)
