"""Branches of a site on side streams: the site's layer beside its kernels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from esper.errors import EsperError
from esper.kernel import Kernel
from esper.seed.cuda.streams import STREAMS, BranchGroup, StreamManager
from esper.seed.seed import Seed, sum_sequentially
from esper.topics.models import SiteKind

FanOut = Callable[[Tensor, int], Sequence[Tensor]]
"""Return h `count` times, one for each reader."""


def _same_tensor(h: Tensor, count: int) -> Sequence[Tensor]:
    return [h] * count


def sum_in_parallel(
    host: Callable[[Tensor], Tensor], x: Tensor, seeds: Sequence[Seed], streams: StreamManager
) -> Tensor:
    """Return the same as `sum_sequentially`, bit for bit, with kernels on side streams."""
    with streams.fork(x.device) as branches:
        if not branches.streams:
            return sum_sequentially(host, x, seeds)
        h, outputs = start_branches(branches, host, x, seeds)
    y = h
    for seed, output in zip(seeds, outputs, strict=True):
        y = y + seed.with_alpha(output, h)
    return y


def start_branches(
    branches: BranchGroup,
    host: Callable[[Tensor], Tensor],
    x: Tensor,
    seeds: Sequence[Seed],
    fan_out: FanOut = _same_tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Return h = host(x), and k(x, h) of each seed; both are valid after the branches' join.

    Kernels that read only x start beside the host, the others once h is computed.
    """
    early: list[Tensor | None] = [None] * len(seeds)
    if branches.streams:
        for index, seed in enumerate(seeds):
            if not seed.reads_h:
                # The kernel does not read h, so x can stand in for h.
                early[index] = branches.start(seed.kernel, x, x)
    h, *copies = fan_out(host(x), 1 + len(seeds))
    outputs = []
    for seed, copy, output in zip(seeds, copies, early, strict=True):
        outputs.append(branches.start(seed.kernel, x, copy) if output is None else output)
        if len(outputs) == 1:
            # Autograd runs newer nodes first: a view of h newer than the first kernel makes the
            # sum's gradient reach h in the same order as sequentially, bit for bit.
            h = h.view_as(h)
    return h, outputs


class CapturedRegion(NamedTuple):
    """The part of a site that a graph captures: its seeds, and its layer if that is torch's own.

    With a layer the input is x and `forward` computes h. Without a layer the inputs are x and h,
    or only h if no kernel reads x, and `forward` is not called.
    """

    layer: nn.Module | None
    forward: Callable[[Tensor], Tensor]
    seeds: tuple[Seed, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules whose tensors the region reads."""
        return self.seeds if self.layer is None else (self.layer, *self.seeds)

    def call(self, inputs: Sequence[Tensor], streams: StreamManager) -> Tensor:
        """Return y, with kernels on side streams if `streams` has any."""
        return sum_in_parallel(self._host(inputs), inputs[0], self.seeds, streams)

    def outputs(
        self, inputs: Sequence[Tensor], streams: StreamManager, fan_out: FanOut
    ) -> tuple[Tensor, list[Tensor]]:
        """Return h and the output of each kernel, neither multiplied by alpha nor summed."""
        with streams.fork(inputs[0].device) as branches:
            return start_branches(branches, self._host(inputs), inputs[0], self.seeds, fan_out)

    def _host(self, inputs: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        return (lambda _: inputs[-1]) if self.layer is None else self.forward

    def draws_random_numbers(self) -> bool:
        """Return whether a kernel draws random numbers in training."""
        return any(
            layout.spec.run_training is not None
            for seed in self.seeds
            for layout in seed.kernel.plan.layout
        )


class WrongSiteKind(EsperError, ValueError):
    """A kernel was compiled for another kind of site."""


class AsyncConv2dKernel(nn.Module):
    """A feature-map kernel that runs on a side stream; input and output (B, C, H, W)."""

    def __init__(self, kernel: Kernel, streams: StreamManager = STREAMS) -> None:
        """Raise WrongSiteKind if the kernel is not for feature maps."""
        super().__init__()
        if kernel.plan.signature.kind is not SiteKind.FEATURE_MAP:
            raise WrongSiteKind(
                f"kernel {kernel.kernel_id[:12]} is for a {kernel.plan.signature.kind}; "
                "AsyncConv2dKernel runs kernels of feature maps"
            )
        self.kernel = kernel
        self._streams = streams

    def start(self, branches: BranchGroup, x: Tensor, h: Tensor) -> Tensor:
        """Start k(x, h) as a branch; the result is valid after the branches' join."""
        return branches.start(self.kernel, x, h)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return k(x, h); the current stream waits for the side stream."""
        with self._streams.fork(h.device) as branches:
            return self.start(branches, x, h)
