"""What stands in for a recorded graph where there is no GPU."""

from torch import Tensor

from esper.seed.capture import Setting
from esper.seed.parallel_branches import CapturedRegion
from esper.seed.streams import StreamManager


class Recorded:
    """Stands in for a recording: it counts its calls, and computes with the eager code."""

    def __init__(self, region: CapturedRegion, setting: Setting, streams: StreamManager) -> None:
        self.setting = setting
        self.is_current, self.is_in_use = True, False
        self.streams = streams

    def current(self) -> bool:
        """As told."""
        return self.is_current

    def in_use(self) -> bool:
        """As told."""
        return self.is_in_use

    def __call__(self, region: CapturedRegion, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what the region computes."""
        return region.call(inputs, self.streams)
