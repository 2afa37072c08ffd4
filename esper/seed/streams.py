"""Streams: where the branches of a site run side by side on a GPU, and where they meet again."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def after(first: torch.cuda.Stream, then: torch.cuda.Stream) -> None:
    """Let a stream wait for all that another was given so far, by an event; the CPU goes on."""
    then.wait_event(first.record_event())


@dataclass(frozen=True, slots=True)
class Edges:
    """What orders a side stream: behind the current stream at a fork, before it at the join."""

    fork: Callable[[torch.cuda.Stream, torch.cuda.Stream], None] = after
    join: Callable[[torch.cuda.Stream, torch.cuda.Stream], None] = after


class StreamManager:
    """The side streams of each GPU, made when first needed and kept.

    The current stream carries the host; up to `side_streams` carry what runs beside it. Without
    any, and on a device without streams, the same work runs one after another.
    """

    def __init__(self, side_streams: int = 4, edges: Edges | None = None) -> None:
        if side_streams < 0:
            raise ValueError(f"{side_streams} side streams; at least 0, which is one after another")
        self._side_streams = side_streams
        self.edges = edges or Edges()
        self._streams: dict[int, tuple[torch.cuda.Stream, ...]] = {}
        self._capturing: dict[int, torch.cuda.Stream] = {}
        self._bringing: dict[int, torch.cuda.Stream] = {}

    def streams(self, device: torch.device) -> tuple[torch.cuda.Stream, ...]:
        """Return the side streams of a GPU; none for another device."""
        if device.type != "cuda":
            return ()
        index = _index(device)
        if index not in self._streams:
            self._streams[index] = tuple(_stream(index) for _ in range(self._side_streams))
        return self._streams[index]

    def capturing(self, device: torch.device) -> torch.cuda.Stream:
        """Return the stream of a GPU on which graphs are recorded; nothing else runs on it."""
        index = _index(device)
        if index not in self._capturing:
            self._capturing[index] = _stream(index)
        return self._capturing[index]

    def brought(self, module: M, device: torch.device) -> M:
        """Return a module on a device; what a GPU does meanwhile is not held up.

        The calling thread waits for the transfer, so it is not the one that trains. Who first
        uses the module calls `adopt`.
        """
        if device.type != "cuda":
            return module.to(device)
        index = _index(device)
        with torch.cuda.device(device):
            if index not in self._bringing:
                self._bringing[index] = _stream(index)
            with torch.cuda.stream(self._bringing[index]):
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.pin_memory()
                module.to(device, non_blocking=True)
            self._bringing[index].synchronize()
        return module

    def adopt(self, module: nn.Module) -> None:
        """Let the current stream use what was brought: its memory is not given out again before."""
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))

    def fork(self, device: torch.device) -> "Fork":
        """Return branches to start; use it as a context manager, at whose end they have joined."""
        return Fork(self.streams(device), self.edges)

    def join(self, device: torch.device) -> None:
        """Let the current stream wait for all side streams of a device; none waits on the CPU.

        Who reads gradients before `backward` has returned, in a hook, calls this first.
        """
        if device.type == "cuda" and (streams := self._streams.get(_index(device))):
            here = torch.cuda.current_stream(device)
            for stream in streams:
                after(stream, here)


class Fork:
    """Branches of one call, started in turn on side streams; their results count after the join."""

    def __init__(self, streams: tuple[torch.cuda.Stream, ...], edges: Edges) -> None:
        self.streams = streams
        self._edges = edges
        self._started = 0

    def start(self, work: Callable[..., Tensor], *reads: Tensor) -> Tensor:
        """Run `work(*reads)` behind what the current stream was given so far."""
        if not self.streams:
            return work(*reads)
        here = torch.cuda.current_stream(self.streams[0].device)
        side = self.streams[self._started % len(self.streams)]
        self._started += 1
        self._edges.fork(here, side)
        with torch.cuda.stream(side):
            result = work(*reads)
        # A tensor belongs to the stream that made it: its memory would be given out again there
        # while another stream still reads. A graph keeps all its memory, and needs no record.
        if not torch.cuda.is_current_stream_capturing():
            for tensor in reads:
                tensor.record_stream(side)
            result.record_stream(here)
        return result

    def join(self) -> None:
        """Let the current stream wait for every branch."""
        streams = self.streams[: self._started]
        for side in streams:
            self._edges.join(side, torch.cuda.current_stream(side.device))
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error: a branch that never joins would spoil a capture, or memory.
        self.join()


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _stream(index: int) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
    return stream


STREAMS = StreamManager()
"""The streams of this process; a site has no others."""

ONE_AFTER_ANOTHER = StreamManager(side_streams=0)
"""No side streams: what runs eagerly, where streams alone cost more than they gain."""
