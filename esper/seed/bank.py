"""The kernels planted at one site, and how they join its output."""

from collections.abc import Callable
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from esper.kernel import Kernel
from esper.seed.graphs import CaptureStats, Eager, SiteGraphs
from esper.seed.parallel_branches import CapturedRegion, H, X, one_after_another, reads
from esper.seed.streams import ONE_AFTER_ANOTHER, STREAMS, StreamManager

IMAGE_RANK: Final = 4


class Seed(nn.Module):
    """One planted kernel and its blend factor.

    `alpha` is a tensor, so that changing it recompiles nothing: a scalar in training, one value
    per sample (shape (B,)) while contributions are measured.
    """

    alpha: Tensor

    def __init__(self, kernel: Kernel, alpha: float = 0.0) -> None:
        super().__init__()
        self.kernel = kernel
        self.reads_x, self.reads_h = reads(kernel, X), reads(kernel, H)
        # Made where the kernel is: to copy it there would wait for all that the GPU has to do.
        device = next((weight.device for weight in kernel.parameters()), None)
        self.register_buffer("alpha", torch.full((), alpha, device=device))

    def laid_out_for(self, layer: nn.Module) -> Self:
        """Lay weights out channels last if the layer's are, before an optimizer knows them."""
        weight = layer._parameters.get("weight")
        if (
            weight is not None
            and weight.dim() == IMAGE_RANK
            and weight.stride(3) > weight.stride(1)
        ):
            self.to(memory_format=torch.channels_last)
        return self

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return alpha * k(x, h), of the shape of `h`."""
        return self.weighed(self.kernel(x, h), h)

    def weighed(self, added: Tensor, h: Tensor) -> Tensor:
        """Return what the kernel computed times alpha, as it joins `h`."""
        alpha = self.alpha
        if alpha.dim():
            alpha = alpha.to(h.dtype).view(-1, *[1] * (h.dim() - 1))
        # Under autocast a kernel may end in a wider type than the layer whose output it joins.
        return (alpha * added).to(h.dtype)


class SeedBank(nn.Module):
    """All seeds of a site, by slot: y = h + sum over seeds of alpha * k(x, h).

    The sum starts from `h` itself, never scaled or detached, so the host's gradient is its own.
    On a GPU a configuration that has settled is replayed from a graph (see `graphs`); what runs
    eagerly goes over `streams`, one after another unless given.
    """

    def __init__(self, streams: StreamManager = ONE_AFTER_ANOTHER) -> None:
        super().__init__()
        self.seeds = nn.ModuleDict()
        self.graphs = SiteGraphs()
        self._streams = streams

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def captures(self) -> CaptureStats:
        """What became of the passes on a GPU."""
        return self.graphs.stats

    def over(self, streams: StreamManager) -> None:
        """Run over other streams from now on what runs eagerly."""
        self._streams = streams

    def plant(self, slot: int, seed: Seed) -> None:
        """Put a seed into a slot that is free."""
        self.seeds[str(slot)] = seed
        # Sums round by their order: it is that of the slots, which an export follows too.
        for name in sorted(self.seeds, key=int):
            self.seeds[name] = self.seeds.pop(name)
        self.graphs.clear()

    def remove(self, slot: int) -> Seed:
        """Take the seed out of a slot and return it."""
        seed = self.seeds.pop(str(slot))
        assert isinstance(seed, Seed)
        self.graphs.clear()
        return seed

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Return `h` plus what every seed adds; `x` is the input of the site's layer.

        A layer that runs its children in turn comes by here too, without h: nothing is added.
        """
        if h is None:
            return x
        if torch.compiler.is_compiling():
            return _apart(self, x, h)
        if not self.graphs.serves(h):
            return self.grown(x, h)
        region = CapturedRegion(None, _no_layer, self._in_order())
        inputs = (x, h) if any(seed.reads_x for seed in region.seeds) else (h,)
        return self.graphs.run(region, inputs, self._streams)

    def run(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return what `layer` and every seed make of `x`; `forward` is the layer's own."""
        if torch.compiler.is_compiling():
            return _apart(self, x, forward(x))
        if not self.graphs.serves(x):
            return one_after_another(forward, x, self._in_order())
        if _is_plain(layer):
            region = CapturedRegion(layer, forward, self._in_order())
            return self.graphs.run(region, (x,), self._streams)
        return self(x, forward(x))  # type: ignore[no-any-return]

    def grown(self, x: Tensor, h: Tensor) -> Tensor:
        """Return what `forward` does, as a host that is being compiled may not see it."""
        if self.graphs.serves(h):
            self.graphs.note(Eager.COMPILED_HOST)
        return one_after_another(lambda _: h, x, self._in_order())

    def _in_order(self) -> tuple[Seed, ...]:
        seeds: Any = self.seeds._modules.values()
        return tuple(seeds)


def _no_layer(x: Tensor) -> Tensor:
    raise AssertionError(f"a region without a layer was asked for h of {tuple(x.shape)}")


def _is_plain(layer: nn.Module) -> bool:
    """Whether a graph may hold this layer: one of torch's own, its weight a parameter of its own.

    Weight normalisation and the like make the weight anew before each call, outside of `forward`.
    """
    return type(layer) in CAPTURABLE and "weight" not in layer.__dict__


# A compiled host calls the bank as it is: were kernels compiled into it, each that comes or goes
# would compile the host anew, seconds on the training thread, and the ninth for the last time.
# torch's own form of `torch.compiler.disable` that loads its compiler only where it is used.
_apart = _disable_dynamo(SeedBank.grown)


class AsyncSeededConv2d(nn.Conv2d):
    """A `Conv2d` with seeds of its own, which run beside it; without any it is the plain layer.

    A site of a host that is a `Conv2d` runs the same code once something is planted there; this
    is for networks written by hand. Arguments are those of `nn.Conv2d`.
    """

    def __init__(self, *args: Any, streams: StreamManager = STREAMS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bank = SeedBank(streams)

    def plant(self, slot: int, seed: Seed) -> None:
        """Let a seed join from the next forward pass on, on the device of this layer.

        Raises:
            ValueError: the slot is taken.
        """
        if str(slot) in self.bank.seeds:
            raise ValueError(f"slot {slot} is taken; remove its seed first")
        self.bank.plant(slot, seed.to(self.weight.device).laid_out_for(self))

    def remove(self, slot: int) -> Seed:
        """Take the seed out of a slot and return it."""
        return self.bank.remove(slot)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution and what its seeds add, (B, C, H, W)."""
        return self.bank.run(self, super().forward, x) if len(self.bank) else super().forward(x)


CAPTURABLE: Final = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, AsyncSeededConv2d})
"""Layers that a graph may hold: their forward does nothing but compute, the same every time."""
