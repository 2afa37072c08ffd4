"""Sites: layers of the host where seeds may be planted."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from esper.errors import EsperError
from esper.seed.bank import SeedBank
from esper.seed.forward_adapters import BANK_NAME, ForwardAdapter
from esper.seed.seed import Seed
from esper.seed.slot import Slot
from esper.topics.models import SiteSignature


class NothingPlanted(EsperError, KeyError):
    """A site has no planted seed."""

    def __init__(self, site: str) -> None:
        super().__init__(f"site {site} has nothing planted")


class Site:
    """One layer of the host, its signature and its slots.

    `adapter` replaces the layer's forward while seeds are planted. `bypassed`: torch has a fused
    path that skips the layer's forward; a hook on the layer, which does nothing, disables that
    path. `tied`: other modules of the host hold a parameter of the layer too.
    """

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        signature: SiteSignature,
        slots: int,
        *,
        adapter: ForwardAdapter,
        bypassed: bool = False,
        tied: bool = False,
    ) -> None:
        self.name = name
        self.layer = layer
        self.signature = signature
        self.slots = tuple(Slot(name, index) for index in range(slots))
        self.adapter = adapter
        self.tied = tied
        self._bypassed = bypassed
        self._hook: RemovableHandle | None = None

    @property
    def bank(self) -> SeedBank | None:
        """The planted seeds; None while nothing is planted and the layer runs its own forward."""
        return self.layer._modules.get(BANK_NAME)  # type: ignore[return-value]

    def plant(self, slot: int, seed: Seed) -> None:
        """Add a seed to the layer's output from the next forward pass on."""
        bank = self.bank
        if bank is None:
            bank = SeedBank()
            self.layer.add_module(BANK_NAME, bank)
            # A partial, unlike a closure, survives deepcopy and pickle bound to the copied layer.
            self.layer.forward = partial(self.adapter, self.layer)
            if self._bypassed:
                self._hook = self.layer.register_forward_hook(_do_nothing)
        bank.plant(slot, seed.match_memory_format(self.layer))

    def remove(self, slot: int) -> Seed:
        """Remove and return a seed; without seeds the layer runs its own forward again.

        Raises:
            NothingPlanted: the site has no seeds.
        """
        bank = self.bank
        if bank is None:
            raise NothingPlanted(self.name)
        seed = bank.remove(slot)
        if not bank.seeds:
            del self.layer.forward
            delattr(self.layer, BANK_NAME)
            if self._hook is not None:
                self._hook.remove()
        return seed

    def undo_point(self) -> Callable[[], None]:
        """Return a function that restores the present seeds, hooks and forward of the layer."""
        layer, bank, hook = self.layer, self.bank, self._hook
        modules, hooks = dict(layer._modules), dict(layer._forward_hooks)
        seeds = None if bank is None else dict(bank.seeds._modules)
        forward = layer.__dict__.get("forward")

        def restore() -> None:
            _replace_content(layer._modules, modules)
            _replace_content(layer._forward_hooks, hooks)
            self._hook = hook
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.__dict__["forward"] = forward
            if bank is not None and seeds is not None:
                _replace_content(bank.seeds._modules, seeds)
                bank.graphs.clear()

        return restore

    def seed(self, slot: int) -> Seed:
        """Return the seed planted in a slot.

        Raises:
            NothingPlanted: the site has no seeds.
        """
        bank = self.bank
        if bank is None:
            raise NothingPlanted(self.name)
        seed = bank.seeds[str(slot)]
        assert isinstance(seed, Seed)
        return seed

    def module_path(self, slot: int) -> str:
        """Return the dotted name, in the host, of the module planted in a slot."""
        return f"{self.name}.{BANK_NAME}.seeds.{slot}"

    def seeds(self) -> Iterator[tuple[Slot, Seed]]:
        """Yield each planted seed with its slot."""
        for slot in self.slots:
            if self.bank is not None and str(slot.index) in self.bank.seeds:
                yield slot, self.seed(slot.index)


def _replace_content(mapping: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    """Replace a mapping's content and order, in place because others hold references to it."""
    mapping.clear()
    mapping.update(content)


def _do_nothing(layer: nn.Module, inputs: object, output: object) -> None:
    """Leave the output as computed."""
