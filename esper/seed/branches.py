"""The branches of a site: its own layer beside its kernels, and the layers that run them so."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from torch import Tensor, nn

from esper.kernel import Kernel
from esper.kernel.executor import attribute_of
from esper.seed.streams import STREAMS, Fork, StreamManager
from topics.models import SiteKind

if TYPE_CHECKING:
    from esper.seed.bank import Seed

X: Final = 0
H: Final = 1
"""The slots of a plan that hold x and h."""


def reads(kernel: nn.Module, slot: int) -> bool:
    """Whether a kernel reads `X` or `H`; a module without a plan may read both."""
    plan = getattr(kernel, "plan", None)
    return plan is None or any(slot in step.inputs for step in plan.steps)


def last_op(kernel: nn.Module) -> nn.Module | None:
    """Return what holds the weights of a plan's last op; None for a module without a plan.

    A plan ends in an op that is linear in its weights, which is why a fresh one adds nothing.
    """
    plan = getattr(kernel, "plan", None)
    return None if plan is None else kernel._modules[attribute_of(plan.steps[-1].node)]


class Joining(NamedTuple):
    """How h is given to several kernels, and how what they compute joins it.

    `spread(h, n)` gives n times h; `gather(seeds, h, added)` gives y.
    """

    spread: Callable[[Tensor, int], Sequence[Tensor]]
    gather: Callable[[Sequence["Seed"], Tensor, Sequence[Tensor]], Tensor]


def _gather_one_by_one(seeds: Sequence["Seed"], h: Tensor, added: Sequence[Tensor]) -> Tensor:
    y = h
    for seed, each in zip(seeds, added, strict=True):
        y = y + seed.weighed(each, h)
    return y


SEQUENTIAL: Final = Joining(lambda h, count: [h] * count, _gather_one_by_one)
"""The arithmetic of one after the other, bit for bit, forward and backward."""


def one_after_another(
    host: Callable[[Tensor], Tensor], x: Tensor, seeds: Sequence["Seed"]
) -> Tensor:
    """Return y = h + alpha * k(x, h) + ..., h = host(x), each kernel added before the next."""
    y = h = host(x)
    for seed in seeds:
        y = y + seed(x, h)
    return y


def side_by_side(
    host: Callable[[Tensor], Tensor],
    x: Tensor,
    seeds: Sequence["Seed"],
    streams: StreamManager,
    joining: Joining = SEQUENTIAL,
) -> Tensor:
    """Return y = h + sum of alpha * k(x, h), h = host(x), each kernel on a side stream.

    Kernels that read x alone start beside the host, the others as soon as h is there. They join
    on the current stream in the order of the seeds.
    """
    added: list[Tensor | None] = [None] * len(seeds)
    with streams.fork(x.device) as fork:
        if not fork.streams and joining is SEQUENTIAL:
            return one_after_another(host, x, seeds)
        if fork.streams:
            for index, seed in enumerate(seeds):
                if not seed.reads_h:
                    # Such a kernel computes nothing from h: x stands in for it.
                    added[index] = fork.start(seed.kernel, x, x)
        h, *copies = joining.spread(host(x), 1 + len(seeds))
        results = []
        for seed, copy, begun in zip(seeds, copies, added, strict=True):
            results.append(fork.start(seed.kernel, x, copy) if begun is None else begun)
            if len(results) == 1:
                # Autograd goes back by age: seen through a view younger than the first kernel,
                # the gradient of the sum reaches h where it does without branches, bit for bit.
                h = h.view_as(h)
    return joining.gather(seeds, h, results)


class Region(NamedTuple):
    """What a graph may hold of a site: its kernels, and its own layer where that is torch's own.

    With a layer the input is x, and `forward` makes h of it. Without one the inputs are x and h,
    or h alone where no kernel reads x; `forward` is then not called.
    """

    layer: nn.Module | None
    forward: Callable[[Tensor], Tensor]
    seeds: tuple["Seed", ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules whose tensors it reads."""
        return self.seeds if self.layer is None else (self.layer, *self.seeds)

    def call(
        self, inputs: Sequence[Tensor], streams: StreamManager, joining: Joining = SEQUENTIAL
    ) -> Tensor:
        """Return y, the kernels beside the layer on the streams that there are."""
        forward = (lambda _: inputs[-1]) if self.layer is None else self.forward
        return side_by_side(forward, inputs[0], self.seeds, streams, joining)

    def draws(self) -> bool:
        """Whether a kernel draws random numbers in training."""
        return any(
            layout.spec.run_training is not None
            for seed in self.seeds
            for layout in seed.kernel.plan.layout
        )


class AsyncConv2dKernel(nn.Module):
    """A kernel of a feature map on a side stream: fork, compute, join; (B, C, H, W) as a kernel."""

    def __init__(self, kernel: Kernel, streams: StreamManager = STREAMS) -> None:
        """Raise ValueError where the kernel is for a site of another kind."""
        super().__init__()
        if kernel.plan.signature.kind is not SiteKind.FEATURE_MAP:
            raise ValueError(
                f"kernel {kernel.kernel_id[:12]} is for a {kernel.plan.signature.kind}; "
                "AsyncConv2dKernel runs kernels of feature maps"
            )
        self.kernel = kernel
        self._streams = streams

    def start(self, fork: Fork, x: Tensor, h: Tensor) -> Tensor:
        """Begin; the result may be read when the fork has joined."""
        return fork.start(self.kernel, x, h)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return k(x, h), which the current stream waits for."""
        with self._streams.fork(h.device) as fork:
            return self.start(fork, x, h)
