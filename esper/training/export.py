"""Export of a grown network as plain PyTorch source, safetensors weights and its lineage.

The folder runs with torch and safetensors, without Esper. The source is that of evaluation mode.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esper.seed import Site, evaluation_mode
from esper.training.lineage import LINEAGE, KernelPlacement, RunHistory
from esper.training.source import ExportError, model_source, one_line, seed_names

SOURCE = "model.py"
WEIGHTS = "weights.safetensors"
TOLERANCE = 1e-6
"""Relative to the largest output, at least 1: other memory formats sum in another order."""


def export_model(
    model: nn.Module,
    sites: Mapping[str, Site],
    sample: Tensor,
    run_history: RunHistory,
    run_id: str,
    folder: Path,
) -> Path:
    """Write `model.py`, `weights.safetensors` and `lineage.json`; return the folder.

    The exported network is loaded and must give the model's output on `sample`, an input of shape
    (1, ..), within `TOLERANCE`.

    Raises:
        ExportError: the host cannot be written as source, or the outputs differ.
    """
    grown = {name: site for name, site in sites.items() if site.bank is not None}
    with evaluation_mode(model):
        source = model_source(model, grown, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE).write_text(source)
    lineage = run_history.lineage(
        run_id, (kernel for site in sites.values() for kernel in _grown_at(site))
    )
    (folder / LINEAGE).write_bytes(orjson.dumps(lineage, option=orjson.OPT_INDENT_2))
    try:
        save_file(_weights(model, grown, folder), folder / WEIGHTS)
        _verify(model, sample, folder)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"the exported source does not run: {one_line(error)}; write the host without this "
            "operation"
        ) from error
    return folder


def _grown_at(site: Site) -> Iterator[KernelPlacement]:
    planted = {slot.index: seed for slot, seed in site.seeds()}
    for slot in site.slots:
        if (seed := planted.get(slot.index)) is not None:
            kernel = seed.kernel.kernel_id, seed.kernel.sha256
            yield KernelPlacement(site.name, slot.index, *kernel, alpha=float(seed.alpha))
        elif slot.planted is not None and slot.merged_sha256 is not None:
            merged = slot.planted.kernel_id, slot.merged_sha256
            yield KernelPlacement(site.name, slot.index, *merged, merged=True, alpha=slot.alpha)


def load_exported(folder: Path) -> nn.Module:
    """Return the network that `export_model` wrote to a folder, in evaluation mode.

    Executes the folder's `model.py`.
    """
    network: nn.Module = _module(folder).load(folder)
    return network


def _module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("esper_exported", folder / SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _weights(model: nn.Module, grown: Mapping[str, Site], folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the exported network's state dict."""
    tensors = _by_exported_name(model, grown)
    wanted = _module(folder).GrownNetwork().state_dict()
    return {
        name: tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        for name in wanted
    }


def _by_exported_name(model: nn.Module, grown: Mapping[str, Site]) -> dict[str, Tensor]:
    # Not the state dict, which lacks the non-persistent buffers that the source needs.
    own = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    tensors: dict[str, Tensor] = {}
    for name, tensor in own:
        layer = next((layer for layer in grown if name.startswith(f"{layer}.")), None)
        if layer is None:
            tensors[name] = tensor
        else:
            tensors[f"{layer}.layer{name[len(layer) :]}"] = tensor
    for site in grown.values():
        for slot, seed in site.seeds():
            kernel, alpha = seed_names(slot.index)
            tensors[f"{site.name}.{alpha}"] = seed.alpha
            for name, tensor in seed.kernel.state_dict().items():
                tensors[f"{site.name}.{kernel}.{name}"] = tensor
    return tensors


def _verify(model: nn.Module, sample: Tensor, folder: Path) -> None:
    written = load_exported(folder).to(sample.device)
    with evaluation_mode(model), torch.no_grad():
        expected, found = model(sample), written(sample)
    within = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not torch.allclose(found, expected, rtol=0.0, atol=within, equal_nan=True):
        worst = float((expected - found).abs().max())
        raise ExportError(
            f"the outputs of the exported source differ by {worst:.2g}, more than {within:.2g}; "
            "make the host deterministic in evaluation mode"
        )
