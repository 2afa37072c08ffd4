"""Side streams of a GPU: branches of a site run there, and the current stream waits for them."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def record_and_wait(recorded: torch.cuda.Stream, waiting: torch.cuda.Stream) -> None:
    """Record an event on one stream and let another wait for it; the CPU does not wait."""
    waiting.wait_event(recorded.record_event())


@dataclass(frozen=True, slots=True)
class StreamDependencies:
    """How a side stream is ordered: after the current stream at a fork, before it at a join."""

    fork: Callable[[torch.cuda.Stream, torch.cuda.Stream], None] = record_and_wait
    join: Callable[[torch.cuda.Stream, torch.cuda.Stream], None] = record_and_wait


class StreamManager:
    """The side streams of each GPU, created on first use.

    The current stream runs the host; up to `side_streams` streams run branches. With 0 side
    streams, or on a device without streams, branches run sequentially.
    """

    def __init__(
        self, side_streams: int = 4, dependencies: StreamDependencies | None = None
    ) -> None:
        """Raise ValueError for a negative number of streams."""
        if side_streams < 0:
            raise ValueError(f"{side_streams} side streams; use at least 0, which is sequential")
        self._count = side_streams
        self.dependencies = dependencies or StreamDependencies()
        self._side_streams: dict[int, tuple[torch.cuda.Stream, ...]] = {}
        self._capture_streams: dict[int, torch.cuda.Stream] = {}
        self._copy_streams: dict[int, torch.cuda.Stream] = {}

    def side_streams(self, device: torch.device) -> tuple[torch.cuda.Stream, ...]:
        """Return the side streams of a GPU; an empty tuple for another device."""
        if device.type != "cuda":
            return ()
        index = _index(device)
        if index not in self._side_streams:
            self._side_streams[index] = tuple(_stream(index) for _ in range(self._count))
        return self._side_streams[index]

    def capture_stream(self, device: torch.device) -> torch.cuda.Stream:
        """Return the stream of a GPU on which graphs are captured; nothing else runs on it."""
        index = _index(device)
        if index not in self._capture_streams:
            self._capture_streams[index] = _stream(index)
        return self._capture_streams[index]

    def to_device(self, module: M, device: torch.device) -> M:
        """Move a module to a device without delaying the work of other threads on a GPU.

        The calling thread waits for the transfer, so call from another thread than the one that
        trains. Call `record_stream` before the first use of the module.
        """
        if device.type != "cuda":
            return module.to(device)
        index = _index(device)
        with torch.cuda.device(device):
            if index not in self._copy_streams:
                self._copy_streams[index] = _stream(index)
            with torch.cuda.stream(self._copy_streams[index]):
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.pin_memory()
                module.to(device, non_blocking=True)
            self._copy_streams[index].synchronize()
        return module

    def record_stream(self, module: nn.Module) -> None:
        """Mark a module's tensors as used by the current stream, so their memory is not reused."""
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))

    def fork(self, device: torch.device) -> "BranchGroup":
        """Return a context manager that starts branches, and joins them at its exit."""
        return BranchGroup(self.side_streams(device), self.dependencies)

    def join(self, device: torch.device) -> None:
        """Let the current stream wait for all side streams of a device; the CPU does not wait.

        A hook that reads gradients before `backward` has returned must call this first.
        """
        if device.type == "cuda" and (streams := self._side_streams.get(_index(device))):
            current = torch.cuda.current_stream(device)
            for stream in streams:
                record_and_wait(stream, current)


class BranchGroup:
    """Branches started in turn on side streams; their results are valid after the join."""

    def __init__(
        self, streams: tuple[torch.cuda.Stream, ...], dependencies: StreamDependencies
    ) -> None:
        self.streams = streams
        self._dependencies = dependencies
        self._started = 0

    def start(self, branch: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run `branch(*inputs)` on a side stream, after the work queued on the current stream."""
        if not self.streams:
            return branch(*inputs)
        current = torch.cuda.current_stream(self.streams[0].device)
        side = self.streams[self._started % len(self.streams)]
        self._started += 1
        self._dependencies.fork(current, side)
        with torch.cuda.stream(side):
            result = branch(*inputs)
        # The allocator reuses a tensor's memory in the order of the stream that created it, while
        # another stream may still read. A graph keeps all its memory and needs no record.
        if not torch.cuda.is_current_stream_capturing():
            for tensor in inputs:
                tensor.record_stream(side)
            result.record_stream(current)
        return result

    def join(self) -> None:
        """Let the current stream wait for every branch."""
        streams = self.streams[: self._started]
        for side in streams:
            self._dependencies.join(side, torch.cuda.current_stream(side.device))
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error: a branch that is not joined breaks a capture, or memory.
        self.join()


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _stream(index: int) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
    return stream


STREAMS = StreamManager()
"""The streams of this process, which all sites share."""

NO_SIDE_STREAMS = StreamManager(side_streams=0)
"""Sequential branches, for eager passes: streams without a graph cost more than they gain."""
