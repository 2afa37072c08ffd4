"""The optimiser's passes: one table, one row each; pure functions from a plan to a plan.

In: a plan. Out: a plan with the same parameters (names, shapes, order), whose results and
gradients are the same up to rounding. A pass reads nothing but the plan, so that equal plans stay
equal everywhere. A row names the devices on which the pass pays, which `python -m benchmarks
passes` measures; to add one, add its function to a module here, its row, and its case to
`tests/compiler/test_optimize.py`.
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
    """One pass, and the devices whose plans it improves."""

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
        "a pool of the largest value goes over channels that lie side by side",
        pool_by_channel,
        ("cpu",),
    ),
    Pass(
        "depthwise-by-channel",
        "a wide convolution of single channels goes over channels that lie side by side",
        depthwise_by_channel,
        ("cpu",),
    ),
)
"""Every pass, in the order in which they run."""
