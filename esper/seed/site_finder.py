"""Finding sites in a model: those that are named, or those that suggest themselves."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.seed.eval_mode import evaluation_mode
from esper.seed.forward_adapters import (
    ForwardAdapter,
    adapter_for,
    first_tensor,
    forward_channels_first,
)
from esper.seed.site import Site
from esper.topics.models import SiteKind, SiteSignature

DTYPES: Final[dict[torch.dtype, Literal["float32", "float16", "bfloat16"]]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

KINDS: Final = {2: SiteKind.VECTOR, 3: SiteKind.SEQUENCE, 4: SiteKind.FEATURE_MAP}
"""The kind of a site, by the rank of its output."""

MAPS: Final = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
"""What a layer over (B, C, H, W) has; without any, four dimensions may mean something else."""

SUGGESTED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
"""Layers that `suggest_sites` looks at."""

MOST_SUGGESTED: Final = 8


class SiteRefused(ValueError):
    """A layer at which growth is not possible; the message says why, and what would do."""


class SiteSuggestion(NamedTuple):
    """A layer that could be a site, whether it is one, and why."""

    name: str
    chosen: bool
    reason: str


class _Call(NamedTuple):
    """What a layer was seen to take and give."""

    x: Tensor | None
    output: Any


def find_sites(
    model: nn.Module, names: Iterable[str], sample: Tensor, slots: int
) -> dict[str, Site]:
    """Return the sites of a model by name, their signatures seen in one forward pass of `sample`.

    Raises:
        SiteRefused: a name is unknown, or its layer cannot carry seeds.
    """
    _check_model(model)
    layers = {name: _layer(model, name) for name in names}
    if not layers:
        raise SiteRefused(f"no site is named; name layers, for instance {_some_sites(model)}")
    if len({id(layer) for layer in layers.values()}) < len(layers):
        raise SiteRefused(f"two of {', '.join(layers)} are the same layer; name it once")
    seen = _observe(model, layers, sample)
    shared = _shared_memory(model)
    return {
        name: _site(model, name, layer, seen[name], len(sample), slots, shared)
        for name, layer in layers.items()
    }


def suggest_sites(model: nn.Module, sample: Tensor) -> list[SiteSuggestion]:
    """Return all linear, convolution and attention layers, in the order in which they run.

    Chosen are those that can be sites, without the last, whose output is the model's; of more than
    eight, eight spread evenly.

    Raises:
        SiteRefused: the model itself cannot grow.
    """
    _check_model(model)
    layers = {
        name: layer for name, layer in model.named_modules() if type(layer) in SUGGESTED and name
    }
    seen = _observe(model, layers, sample)
    suggestions, able = [], []
    for name in sorted(layers, key=lambda name: seen[name].order):
        try:
            _site(model, name, _layer(model, name), seen[name], len(sample), slots=1)
        except SiteRefused as refusal:
            suggestions.append(SiteSuggestion(name, False, str(refusal)))
        else:
            able.append(name)
    *able, last = able or [""]
    if last:
        suggestions.append(SiteSuggestion(last, False, f"{last} gives the output of the model"))
    chosen = set(_spread(able, MOST_SUGGESTED))
    for name in able:
        why = "runs once in each pass" if name in chosen else f"{MOST_SUGGESTED} others are enough"
        suggestions.append(SiteSuggestion(name, name in chosen, f"{name} {why}"))
    return sorted(suggestions, key=lambda one: seen[one.name].order)


def _spread(names: Sequence[str], most: int) -> list[str]:
    if len(names) <= most:
        return list(names)
    return [names[index * (len(names) - 1) // (most - 1)] for index in range(most)]


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model in DistributedDataParallel, or the model itself where it is in nothing.

    Raises:
        SiteRefused: it is wrapped, or trained by several processes, in a way that cannot grow.
    """
    if isinstance(model, DistributedDataParallel):
        host: nn.Module = model.module
        return host
    if isinstance(model, nn.DataParallel):
        raise SiteRefused(
            "the model is in DataParallel, which copies it in every pass; "
            "use DistributedDataParallel"
        )
    if _is_sharded(model):
        raise SiteRefused(
            "the model is sharded over ranks, and a kernel would not be; "
            "use DistributedDataParallel"
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise SiteRefused(
            f"this is one of {dist.get_world_size()} processes, and each would grow a network of "
            "its own; wrap the model in DistributedDataParallel and pass that"
        )
    return model


def _is_sharded(model: nn.Module) -> bool:
    # Whoever has sharded a model has loaded what does it; others need not wait for that.
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule | fsdp.FullyShardedDataParallel)


def _check_model(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise SiteRefused("the model is TorchScript, whose layers cannot change; give its original")


def _layer(model: nn.Module, name: str) -> nn.Module:
    if not name:
        raise SiteRefused(f"the model itself is no site; name a layer of it: {_some_sites(model)}")
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise SiteRefused(
            f"the model has no layer {name!r}; there are {_some_sites(model)}"
        ) from error
    if "forward" in vars(layer):
        raise SiteRefused(f"{name} has a forward of its own already; is it part of another growth?")
    if isinstance(layer, torch.jit.ScriptModule):
        raise SiteRefused(f"{name} is TorchScript, whose forward cannot change; use its original")
    if isinstance(layer, nn.MultiheadAttention) and not layer.batch_first:
        raise SiteRefused(f"{name} takes positions first; make it with batch_first=True")
    return layer


def _some_sites(model: nn.Module) -> str:
    names = [name for name, layer in model.named_modules() if isinstance(layer, SUGGESTED)]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "none that would do"


class _Seen(list[_Call]):
    """The calls of one layer; `order` is when the first came, among all layers'."""

    order: int = 1 << 30


def _observe(model: nn.Module, layers: dict[str, nn.Module], sample: Tensor) -> dict[str, _Seen]:
    """Return the calls of each layer in one forward pass."""
    seen = {name: _Seen() for name in layers}
    count = iter(range(1 << 30))

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not seen[name]:
                seen[name].order = next(count)
            seen[name].append(_Call(first_tensor(args, kwargs), output))

        return layers[name].register_forward_hook(hook, with_kwargs=True)

    handles = [watch(name) for name in layers]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _site(
    model: nn.Module,
    name: str,
    layer: nn.Module,
    calls: _Seen,
    batch: int,
    slots: int,
    shared: frozenset[int] = frozenset(),
) -> Site:
    if len(calls) != 1:
        raise SiteRefused(
            f"{name} runs {len(calls)} times in one forward pass; a site must run exactly once"
        )
    (call,) = calls
    adapter = adapter_for(layer, call.output)
    h = call.output[0] if isinstance(layer, nn.MultiheadAttention) else call.output
    if adapter is None or call.x is None:
        raise SiteRefused(
            f"{name}, a {type(layer).__name__}, does not take and give a tensor; name a layer that "
            f"does, for instance {_some_sites(model)}"
        )
    signature = _signature(name, layer, adapter, call.x, h, batch)
    bypassed = _is_bypassed(model, name)
    tied = any(_memory(tensor) in shared for tensor in layer.parameters(recurse=False))
    return Site(name, layer, signature, slots, adapter=adapter, bypassed=bypassed, tied=tied)


def _signature(
    name: str, layer: nn.Module, adapter: ForwardAdapter, x: Tensor, h: Tensor, batch: int
) -> SiteSignature:
    for value in (h, x):
        if value.device.type not in ("cpu", "cuda") or value.dtype not in DTYPES:
            raise SiteRefused(
                f"{name} computes {value.dtype} on {value.device}, which no kernel is made for"
            )
    kind = KINDS.get(h.dim())
    over_maps = any(isinstance(part, MAPS) for part in layer.modules())
    fits = kind is not None and x.dim() == h.dim() and len(x) == len(h) == batch
    if not fits or kind is None or over_maps is not (kind is SiteKind.FEATURE_MAP):
        raise SiteRefused(
            f"{name} computes {tuple(h.shape)} of {tuple(x.shape)} for {batch} samples; a site "
            "computes (B, D), (B, T, D), or with convolutions (B, C, H, W), samples first"
        )
    if adapter is forward_channels_first:
        x, h = x.mT, h.mT
    return SiteSignature(
        kind=kind,
        x=tuple(x.shape[1:]),
        h=tuple(h.shape[1:]),
        dtype=DTYPES[h.dtype],
        device="cuda" if h.is_cuda else "cpu",
    )


def _is_bypassed(model: nn.Module, name: str) -> bool:
    """Whether the layer stands in one that torch, in evaluation, computes without calling it."""
    return any(isinstance(outer, nn.TransformerEncoderLayer) for outer in _outer(model, name))


def _shared_memory(model: nn.Module) -> frozenset[int]:
    """Return where tensors lie that more than one module of a model holds."""
    holders: dict[int, nn.Module] = {}
    shared = set()
    for part in model.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if holders.setdefault(_memory(tensor), part) is not part:
                shared.add(_memory(tensor))
    return frozenset(shared)


def _memory(tensor: Tensor) -> int:
    # A sparse tensor, one not made yet, or one of a stranger's class may have no address.
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return tensor.untyped_storage().data_ptr() if plain else id(tensor)


def _outer(model: nn.Module, name: str) -> Iterator[nn.Module]:
    parts = name.split(".")
    for depth in range(len(parts)):
        yield model.get_submodule(".".join(parts[:depth]))
