"""Sites: layers of the host where seeds may be planted."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from esper.seed.bank import Seed, SeedBank
from esper.seed.forward_adapters import BANK, Join
from esper.seed.slot import Slot
from esper.topics.models import SiteSignature


class Site:
    """One layer of the host, its signature and its slots.

    `join` is how seeds come between the layer and who calls it. A layer is `bypassed` where torch
    has a fused path around it: a hook on it, which does nothing, keeps torch off that path. It is
    `tied` where other modules of the host hold a parameter of it too.
    """

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        signature: SiteSignature,
        slots: int,
        *,
        join: Join,
        bypassed: bool = False,
        tied: bool = False,
    ) -> None:
        self.name = name
        self.layer = layer
        self.signature = signature
        self.slots = tuple(Slot(name, index) for index in range(slots))
        self.join = join
        self.tied = tied
        self._bypassed = bypassed
        self._hook: RemovableHandle | None = None

    @property
    def bank(self) -> SeedBank | None:
        """The planted seeds; None while there is none and the layer is the host's own."""
        return self.layer._modules.get(BANK)  # type: ignore[return-value]

    def plant(self, slot: int, seed: Seed) -> None:
        """Let a seed join the layer's output from the next forward pass on."""
        bank = self.bank
        if bank is None:
            bank = SeedBank()
            self.layer.add_module(BANK, bank)
            # A partial, unlike a closure, survives deepcopy and pickle bound to the copied layer.
            self.layer.forward = partial(self.join, self.layer)
            if self._bypassed:
                self._hook = self.layer.register_forward_hook(_do_nothing)
        bank.plant(slot, seed.laid_out_for(self.layer))

    def remove(self, slot: int) -> Seed:
        """Take a seed out; with the last one the layer becomes the host's own again."""
        bank = self.bank
        if bank is None:
            raise KeyError(f"site {self.name} has nothing planted")
        seed = bank.remove(slot)
        if not bank.seeds:
            del self.layer.forward
            delattr(self.layer, BANK)
            if self._hook is not None:
                self._hook.remove()
        return seed

    def keep(self) -> Callable[[], None]:
        """Return what plants again just the seeds of now, whatever has been done meanwhile."""
        layer, bank, hook = self.layer, self.bank, self._hook
        modules, hooks = dict(layer._modules), dict(layer._forward_hooks)
        seeds = None if bank is None else dict(bank.seeds._modules)
        forward = layer.__dict__.get("forward")

        def put_back() -> None:
            _fill(layer._modules, modules)
            _fill(layer._forward_hooks, hooks)
            self._hook = hook
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = forward
            if bank is not None and seeds is not None:
                _fill(bank.seeds._modules, seeds)
                bank.graphs.clear()

        return put_back

    def seed(self, slot: int) -> Seed:
        """The seed planted in a slot."""
        bank = self.bank
        if bank is None:
            raise KeyError(f"site {self.name} has nothing planted")
        seed = bank.seeds[str(slot)]
        assert isinstance(seed, Seed)
        return seed

    def path_of(self, slot: int) -> str:
        """Where the seed of a slot stands among the host's modules while it is planted."""
        return f"{self.name}.{BANK}.seeds.{slot}"

    def seeds(self) -> Iterator[tuple[Slot, Seed]]:
        """Yield each planted seed with its slot."""
        for slot in self.slots:
            if self.bank is not None and str(slot.index) in self.bank.seeds:
                yield slot, self.seed(slot.index)


def _fill(mapping: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    """Give a mapping just this content, in this order; in place, for others hold on to it."""
    mapping.clear()
    mapping.update(content)


def _do_nothing(layer: nn.Module, inputs: object, output: object) -> None:
    """Be there."""
