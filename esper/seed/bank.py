"""The seeds planted at one site, as a submodule of the site's layer."""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from esper.errors import EsperError
from esper.seed.cuda import (
    NO_SIDE_STREAMS,
    STREAMS,
    CapturedRegion,
    CaptureStats,
    EagerReason,
    SiteGraphs,
    StreamManager,
)
from esper.seed.private_torch import disable_dynamo
from esper.seed.seed import Seed, sum_sequentially


class SlotTaken(EsperError, ValueError):
    """A seed cannot be planted because its slot holds another."""


class SeedBank(nn.Module):
    """All seeds of a site, by slot: y = h + sum over seeds of alpha * k(x, h).

    The sum starts from `h` itself, never scaled or detached, so the host's gradient is unchanged.
    On a GPU a configuration that repeats is replayed from a CUDA graph (see `SiteGraphs`). Eager
    passes use `streams`; the default has no side streams.
    """

    def __init__(self, streams: StreamManager = NO_SIDE_STREAMS) -> None:
        super().__init__()
        self.seeds = nn.ModuleDict()
        self.graphs = SiteGraphs()
        self._streams = streams

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def capture_stats(self) -> CaptureStats:
        """Counts of replays, captures, and eager passes on a GPU."""
        return self.graphs.stats

    def use_streams(self, streams: StreamManager) -> None:
        """Run eager passes on other streams from now on."""
        self._streams = streams

    def plant(self, slot: int, seed: Seed) -> None:
        """Put a seed into a free slot."""
        self.seeds[str(slot)] = seed
        # Rounding depends on the order of a sum: always by slot, as in an exported model.
        for name in sorted(self.seeds, key=int):
            self.seeds[name] = self.seeds.pop(name)
        self.graphs.clear()

    def remove(self, slot: int) -> Seed:
        """Remove the seed of a slot and return it."""
        seed = self.seeds.pop(str(slot))
        assert isinstance(seed, Seed)
        self.graphs.clear()
        return seed

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Return `h` plus the output of every seed; `x` is the input of the site's layer.

        `nn.Sequential` also calls this module, without `h`; return `x` unchanged.
        """
        if h is None:
            return x
        if torch.compiler.is_compiling():
            return _add_outside_compiled_host(self, x, h)
        if not self.graphs.supports(h):
            return self.add_eagerly(x, h)
        region = CapturedRegion(None, _no_layer, self._in_slot_order())
        inputs = (x, h) if any(seed.reads_x for seed in region.seeds) else (h,)
        return self.graphs.run(region, inputs, self._streams)

    def run(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `forward(x)` plus the output of every seed; `forward` is the layer's own."""
        if torch.compiler.is_compiling():
            return _add_outside_compiled_host(self, x, forward(x))
        if not self.graphs.supports(x):
            return sum_sequentially(forward, x, self._in_slot_order())
        if _is_capturable(layer):
            region = CapturedRegion(layer, forward, self._in_slot_order())
            return self.graphs.run(region, (x,), self._streams)
        return self(x, forward(x))  # type: ignore[no-any-return]

    def add_eagerly(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the same as `forward` without a graph; a compiled host must not trace this."""
        if self.graphs.supports(h):
            self.graphs.count_eager(EagerReason.COMPILED_HOST)
        return sum_sequentially(lambda _: h, x, self._in_slot_order())

    def _in_slot_order(self) -> tuple[Seed, ...]:
        seeds: Any = self.seeds._modules.values()
        return tuple(seeds)


def _no_layer(x: Tensor) -> Tensor:
    raise AssertionError(f"a region without a layer has no h for x of shape {tuple(x.shape)}")


def _is_capturable(layer: nn.Module) -> bool:
    """Return whether a graph may include this layer: a layer of torch with a plain weight.

    Weight normalisation and similar compute the weight before each call, outside of `forward`.
    """
    return type(layer) in CAPTURABLE and "weight" not in layer.__dict__


# A compiled host calls the bank uncompiled. Otherwise each planted or removed kernel would
# recompile the host: seconds on the training thread, and only up to Dynamo's recompile limit.
_add_outside_compiled_host = disable_dynamo(SeedBank.add_eagerly)


class AsyncSeededConv2d(nn.Conv2d):
    """A `Conv2d` with its own seeds, which run beside it; without seeds it is the plain layer.

    For networks written by hand. A `Conv2d` site of any host runs the same code once a seed is
    planted there. Arguments are those of `nn.Conv2d`.
    """

    def __init__(self, *args: Any, streams: StreamManager = STREAMS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bank = SeedBank(streams)

    def plant(self, slot: int, seed: Seed) -> None:
        """Move a seed to this layer's device and add it from the next forward pass on.

        Raises:
            SlotTaken: the slot holds a seed.
        """
        if str(slot) in self.bank.seeds:
            raise SlotTaken(f"slot {slot} is taken; remove its seed first")
        self.bank.plant(slot, seed.to(self.weight.device).match_memory_format(self))

    def remove(self, slot: int) -> Seed:
        """Remove the seed of a slot and return it."""
        return self.bank.remove(slot)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution plus the output of its seeds, (B, C, H, W)."""
        return self.bank.run(self, super().forward, x) if len(self.bank) else super().forward(x)


CAPTURABLE: Final = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, AsyncSeededConv2d})
"""Layers that a graph may include: each call of their forward launches the same kernels."""
