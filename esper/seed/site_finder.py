"""Find the sites of a model, by name or by suggestion."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.errors import EsperError
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

FEATURE_MAP_LAYERS: Final = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
"""A layer over (B, C, H, W) contains one of these; otherwise rank 4 may mean something else."""

SUGGESTED_TYPES: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)
"""Layer types that `suggest_sites` considers."""

MAX_SUGGESTED: Final = 8
MAX_NAMES_IN_ERROR: Final = 8


class SiteRefused(EsperError, ValueError):
    """A layer or model cannot grow; the message says why, and what to use instead."""


class SiteSuggestion(NamedTuple):
    """A layer that may be a site, whether it is chosen, and why."""

    name: str
    chosen: bool
    reason: str


class _Call(NamedTuple):
    """The first tensor argument and the output of one call of a layer."""

    x: Tensor | None
    output: Any


class _Calls(list[_Call]):
    """The calls of one layer; `order` is the rank of its first call among all layers."""

    order: int = sys.maxsize


def find_sites(
    model: nn.Module, names: Iterable[str], sample: Tensor, slots: int
) -> dict[str, Site]:
    """Return sites by layer name, with signatures observed in one forward pass of `sample`.

    Raises:
        SiteRefused: a name is unknown, or its layer cannot carry seeds.
    """
    _check_model(model)
    layers = {name: _layer(model, name) for name in names}
    if not layers:
        raise SiteRefused(f"no site is named; name layers, for instance {_some_sites(model)}")
    if len({id(layer) for layer in layers.values()}) < len(layers):
        raise SiteRefused(f"two of {', '.join(layers)} are the same layer; name it once")
    calls = _observe(model, layers, sample)
    shared = _shared_memory(model)
    return {
        name: _site(model, name, layer, calls[name], len(sample), slots, shared)
        for name, layer in layers.items()
    }


def suggest_sites(model: nn.Module, sample: Tensor) -> list[SiteSuggestion]:
    """Return a suggestion for each linear, convolution and attention layer, in execution order.

    Chosen are layers that can be sites, except the last one, which computes the model's output.
    Of more than eight, eight are chosen, spread evenly.

    Raises:
        SiteRefused: the model itself cannot grow.
    """
    _check_model(model)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) in SUGGESTED_TYPES and name
    }
    calls = _observe(model, layers, sample)
    suggestions, able = [], []
    for name in sorted(layers, key=lambda name: calls[name].order):
        try:
            _site(model, name, _layer(model, name), calls[name], len(sample), slots=1)
        except SiteRefused as refusal:
            suggestions.append(SiteSuggestion(name, False, str(refusal)))
        else:
            able.append(name)
    *able, last = able or [""]
    if last:
        suggestions.append(SiteSuggestion(last, False, f"{last} gives the output of the model"))
    chosen = set(_evenly_spaced(able, MAX_SUGGESTED))
    for name in able:
        why = "runs once in each pass" if name in chosen else f"{MAX_SUGGESTED} others are enough"
        suggestions.append(SiteSuggestion(name, name in chosen, f"{name} {why}"))
    return sorted(suggestions, key=lambda suggestion: calls[suggestion.name].order)


def _evenly_spaced(names: Sequence[str], most: int) -> list[str]:
    if len(names) <= most:
        return list(names)
    return [names[index * (len(names) - 1) // (most - 1)] for index in range(most)]


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, or an unwrapped model itself.

    Raises:
        SiteRefused: the model's wrapper, or training in several processes without one, cannot grow.
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
            f"this is one of {dist.get_world_size()} processes, and each would grow a different "
            "network; wrap the model in DistributedDataParallel and pass that"
        )
    return model


def _is_sharded(model: nn.Module) -> bool:
    # A sharded model implies that its module is imported; other processes skip the slow import.
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule | fsdp.FullyShardedDataParallel)


def _check_model(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise SiteRefused(
            "the model is TorchScript, whose layers cannot change; pass the original module"
        )


def _layer(model: nn.Module, name: str) -> nn.Module:
    if not name:
        raise SiteRefused(
            f"the model itself cannot be a site; name one of its layers: {_some_sites(model)}"
        )
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise SiteRefused(
            f"the model has no layer {name!r}; it has {_some_sites(model)}"
        ) from error
    if "forward" in vars(layer):
        raise SiteRefused(f"{name} already has its own forward; close another growth of this model")
    if isinstance(layer, torch.jit.ScriptModule):
        raise SiteRefused(f"{name} is TorchScript, whose forward cannot change; use its original")
    if isinstance(layer, nn.MultiheadAttention) and not layer.batch_first:
        raise SiteRefused(f"{name} takes positions first; create it with batch_first=True")
    return layer


def _some_sites(model: nn.Module) -> str:
    names = [name for name, layer in model.named_modules() if isinstance(layer, SUGGESTED_TYPES)]
    if not names:
        return "no suitable layer"
    return ", ".join(names[:MAX_NAMES_IN_ERROR]) + (
        ", …" if len(names) > MAX_NAMES_IN_ERROR else ""
    )


def _observe(model: nn.Module, layers: dict[str, nn.Module], sample: Tensor) -> dict[str, _Calls]:
    """Return the calls of each layer in one forward pass."""
    calls = {name: _Calls() for name in layers}
    called: list[str] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not calls[name]:
                calls[name].order = len(called)
                called.append(name)
            calls[name].append(_Call(first_tensor(args, kwargs), output))

        return layers[name].register_forward_hook(hook, with_kwargs=True)

    handles = [watch(name) for name in layers]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _site(
    model: nn.Module,
    name: str,
    layer: nn.Module,
    calls: _Calls,
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
            f"{name}, a {type(layer).__name__}, does not take and return a tensor; name a layer "
            f"that does, for instance {_some_sites(model)}"
        )
    signature = _signature(name, layer, adapter, call.x, h, batch)
    bypassed = _is_bypassed(model, name)
    tied = any(_memory(tensor) in shared for tensor in layer.parameters(recurse=False))
    return Site(name, layer, signature, slots, adapter=adapter, bypassed=bypassed, tied=tied)


def _signature(
    name: str, layer: nn.Module, adapter: ForwardAdapter, x: Tensor, h: Tensor, batch: int
) -> SiteSignature:
    for tensor in (h, x):
        if tensor.device.type not in ("cpu", "cuda") or tensor.dtype not in DTYPES:
            raise SiteRefused(
                f"{name} computes {tensor.dtype} on {tensor.device}, for which no kernel is "
                "compiled; use a float layer on cpu or cuda"
            )
    kind = KINDS.get(h.dim())
    has_map_layer = any(isinstance(module, FEATURE_MAP_LAYERS) for module in layer.modules())
    fits = kind is not None and x.dim() == h.dim() and len(x) == len(h) == batch
    if not fits or kind is None or has_map_layer is not (kind is SiteKind.FEATURE_MAP):
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
    """Return whether an outer layer has a fused evaluation path that does not call this layer."""
    outer = _outer_modules(model, name)
    return any(isinstance(module, nn.TransformerEncoderLayer) for module in outer)


def _shared_memory(model: nn.Module) -> frozenset[int]:
    """Return the addresses of tensors that more than one module of a model holds."""
    holders: dict[int, nn.Module] = {}
    shared = set()
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if holders.setdefault(_memory(tensor), module) is not module:
                shared.add(_memory(tensor))
    return frozenset(shared)


def _memory(tensor: Tensor) -> int:
    # Sparse tensors, lazy parameters and tensor subclasses may have no address.
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return tensor.untyped_storage().data_ptr() if plain else id(tensor)


def _outer_modules(model: nn.Module, name: str) -> Iterator[nn.Module]:
    parts = name.split(".")
    for depth in range(len(parts)):
        yield model.get_submodule(".".join(parts[:depth]))
