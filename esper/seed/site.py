"""Sites: layers of the host where seeds may be planted."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from esper.seed.bank import Seed, SeedBank
from esper.seed.slot import Slot
from topics.models import SiteKind, SiteSignature

DTYPES: dict[torch.dtype, Literal["float32", "float16", "bfloat16"]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

KINDS = {
    (False, 2): SiteKind.VECTOR,
    (False, 3): SiteKind.SEQUENCE,
    (True, 4): SiteKind.FEATURE_MAP,
}
"""The kind of a site, by whether it is a convolution and by the rank of its output."""

BANK = "esper_seeds"
"""The name under which a grown layer holds its seeds."""


class SiteRefused(ValueError):
    """A layer at which growth is not possible; the message says why, and what would do."""


class Site:
    """One layer of the host, its signature and its slots."""

    def __init__(self, name: str, layer: nn.Module, signature: SiteSignature, slots: int) -> None:
        self.name = name
        self.layer = layer
        self.signature = signature
        self.slots = tuple(Slot(name, index) for index in range(slots))

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
            self.layer.forward = partial(_seeded_forward, self.layer)
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
        return seed

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


def _seeded_forward(layer: nn.Module, x: Tensor) -> Tensor:
    bank = layer._modules[BANK]
    assert isinstance(bank, SeedBank)
    return bank.run(layer, partial(type(layer).forward, layer), x)


def find_sites(
    model: nn.Module, names: Iterable[str], sample: Tensor, slots: int
) -> dict[str, Site]:
    """Return the sites of a model by name, their signatures seen in one forward pass of `sample`.

    Raises:
        SiteRefused: a name is unknown, or its layer cannot carry seeds.
    """
    layers = {name: _layer(model, name) for name in names}
    if not layers:
        raise SiteRefused(f"no site is named; name layers, for instance {_some_sites(model)}")
    if len({id(layer) for layer in layers.values()}) < len(layers):
        raise SiteRefused(f"two of {', '.join(layers)} are the same layer; name it once")
    seen = _observe(model, layers, sample)
    return {
        name: Site(name, layer, _signature(name, layer, seen[name], len(sample)), slots)
        for name, layer in layers.items()
    }


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise SiteRefused(
            f"the model has no layer {name!r}; there are {_some_sites(model)}"
        ) from error
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise SiteRefused(
            f"{name} is a {type(layer).__name__}; seeds grow at Linear and Conv2d layers, "
            f"here {_some_sites(model)}"
        )
    if "forward" in vars(layer):
        raise SiteRefused(f"{name} has a forward of its own already; is it part of another growth?")
    return layer


def _some_sites(model: nn.Module) -> str:
    names = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "none that would do"


def _observe(
    model: nn.Module, layers: dict[str, nn.Module], sample: Tensor
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if len(inputs) != 1:
                raise SiteRefused(f"{name} is called by keyword; call it as layer(x)")
            seen[name].append((inputs[0], output))

        return layers[name].register_forward_hook(hook)

    handles = [watch(name) for name in layers]
    try:
        with evaluating(model), torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _signature(
    name: str, layer: nn.Module, calls: list[tuple[Tensor, Tensor]], batch: int
) -> SiteSignature:
    if len(calls) != 1:
        raise SiteRefused(
            f"{name} runs {len(calls)} times in one forward pass; a site must run exactly once"
        )
    x, h = calls[0]
    if h.device.type not in ("cpu", "cuda") or h.dtype not in DTYPES:
        raise SiteRefused(f"{name} computes {h.dtype} on {h.device}, which no kernel is made for")
    kind = KINDS.get((isinstance(layer, nn.Conv2d), h.dim()))
    if kind is None or len(x) != batch or len(h) != batch:
        raise SiteRefused(
            f"{name} computes {tuple(h.shape)} for {batch} samples; a site computes (B, D), "
            "(B, T, D) or (B, C, H, W), samples first"
        )
    return SiteSignature(
        kind=kind,
        x=tuple(x.shape[1:]),
        h=tuple(h.shape[1:]),
        dtype=DTYPES[h.dtype],
        device="cuda" if h.is_cuda else "cpu",
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; then put modes and random numbers back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    model.eval()
    try:
        # A host may draw random numbers in evaluation too; training must not notice.
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
