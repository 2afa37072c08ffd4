"""The optimiser's passes: one table, one row per pass, each a pure function of a plan.

In: a plan. Out: a plan with the same parameters (names, shapes, order) and, up to rounding, the
same results and gradients. A row names the devices on which the pass pays off, as measured by
`python -m benchmarks passes`. To add a pass, add its function to a module here, its row to
`PASSES`, and its case to `tests/compiler/test_optimize.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from esper.compiler.passes.common import share_common
from esper.compiler.passes.fuse import fuse_glu
from esper.compiler.passes.layout import depthwise_by_channel, pool_by_channel
from esper.compiler.passes.pointwise import conv_as_product, conv_at_one
from esper.kernel import KernelPlan

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass, and the devices on which it makes plans faster."""

    name: str
    summary: str
    run: Callable[[KernelPlan], KernelPlan]
    devices: tuple[Device, ...]


PASSES: Final[tuple[Pass, ...]] = (
    Pass(
        "common",
        "equal steps become one",
        share_common,
        ("cpu", "cuda"),
    ),
    Pass(
        "conv-at-one",
        "a convolution of kernel 1 on (C, 1, 1) becomes a linear map",
        conv_at_one,
        ("cpu",),
    ),
    Pass(
        "conv-as-product",
        "a convolution of kernel 1 on a map becomes a matrix product for each sample",
        conv_as_product,
        ("cpu",),
    ),
    Pass(
        "glu",
        "one half times the sigmoid of the other becomes one op",
        fuse_glu,
        ("cpu", "cuda"),
    ),
    Pass(
        "pool-by-channel",
        "max pooling runs in channels_last memory format",
        pool_by_channel,
        ("cpu",),
    ),
    Pass(
        "depthwise-by-channel",
        "a depthwise convolution with a large kernel runs in channels_last memory format",
        depthwise_by_channel,
        ("cpu",),
    ),
)
"""Every pass, in the order in which they run."""
