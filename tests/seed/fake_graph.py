"""A stand-in for a captured graph, for machines without a GPU."""

from torch import Tensor

from esper.seed.cuda import CapturedRegion, StreamManager
from esper.seed.cuda.captured_graph import CallSpec


class FakeGraph:
    """A captured graph without a GPU: it computes with the eager code.

    A test sets `current` and `used` to what the graph shall report.
    """

    def __init__(self, region: CapturedRegion, spec: CallSpec, streams: StreamManager) -> None:
        self.spec = spec
        self.current, self.used = True, False
        self.streams = streams

    def is_current(self) -> bool:
        """Return `current`."""
        return self.current

    def in_use(self) -> bool:
        """Return `used`."""
        return self.used

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the region's eager output."""
        return region.call(inputs, self.streams)
