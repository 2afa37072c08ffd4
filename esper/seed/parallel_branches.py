"""The branches of a site: its own layer beside its kernels, and the layers that run them so."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from torch import Tensor, nn

from esper.kernel import Kernel, attribute_of
from esper.seed.streams import STREAMS, Fork, StreamManager
from esper.topics.models import SiteKind

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


Spread = Callable[[Tensor, int], Sequence[Tensor]]
"""Gives h as often as it is read."""


def _as_it_is(h: Tensor, count: int) -> Sequence[Tensor]:
    return [h] * count


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
) -> Tensor:
    """Return what `one_after_another` does, bit for bit, each kernel on a side stream."""
    with streams.fork(x.device) as fork:
        if not fork.streams:
            return one_after_another(host, x, seeds)
        h, added = branched(fork, host, x, seeds)
    y = h
    for seed, each in zip(seeds, added, strict=True):
        y = y + seed.weighed(each, h)
    return y


def branched(
    fork: Fork,
    host: Callable[[Tensor], Tensor],
    x: Tensor,
    seeds: Sequence["Seed"],
    spread: Spread = _as_it_is,
) -> tuple[Tensor, list[Tensor]]:
    """Return h = host(x), and k(x, h) of each seed; they count once the fork has joined.

    Kernels that read x alone start beside the host, the others as soon as h is there.
    """
    begun: list[Tensor | None] = [None] * len(seeds)
    if fork.streams:
        for index, seed in enumerate(seeds):
            if not seed.reads_h:
                # Such a kernel computes nothing from h: x stands in for it.
                begun[index] = fork.start(seed.kernel, x, x)
    h, *copies = spread(host(x), 1 + len(seeds))
    added = []
    for seed, copy, early in zip(seeds, copies, begun, strict=True):
        added.append(fork.start(seed.kernel, x, copy) if early is None else early)
        if len(added) == 1:
            # Autograd goes back by age: seen through a view younger than the first kernel,
            # the gradient of the sum reaches h where it does without branches, bit for bit.
            h = h.view_as(h)
    return h, added


class CapturedRegion(NamedTuple):
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

    def call(self, inputs: Sequence[Tensor], streams: StreamManager) -> Tensor:
        """Return y, the kernels beside the layer on the streams that there are."""
        return side_by_side(self._host(inputs), inputs[0], self.seeds, streams)

    def terms(
        self, inputs: Sequence[Tensor], streams: StreamManager, spread: Spread
    ) -> tuple[Tensor, list[Tensor]]:
        """Return h and what each kernel makes, not times alpha and not added up."""
        with streams.fork(inputs[0].device) as fork:
            return branched(fork, self._host(inputs), inputs[0], self.seeds, spread)

    def _host(self, inputs: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        return (lambda _: inputs[-1]) if self.layer is None else self.forward

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
