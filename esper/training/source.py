"""Python source of a grown model: the host by symbolic tracing, each kernel from its plan."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import fx, nn

from esper.errors import EsperError
from esper.kernel import to_source
from esper.seed import BANK_NAME, Site, forward_channels_first
from esper.version import VERSION

INDENT = " " * 4
KNOWN_GLOBALS = frozenset({"torch", "inf", "nan", "NoneType", "device", "fx_pytree", "pytree"})

HEADER = '''"""A network grown by Esper {version} in run {run_id}.

`load()` returns it with its weights; needs torch and safetensors. lineage.json beside this file
says what was grown where, and why.
"""

from math import inf, nan
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, nn
'''

FOOTER = '''

def load(folder=Path(__file__).parent):
    """Return the network with the weights beside this file, in evaluation mode."""
    network = GrownNetwork()
    network.load_state_dict(load_file(Path(folder) / "weights.safetensors"), assign=True)
    return network.eval()
'''


class ExportError(EsperError, ValueError):
    """A host that cannot be written as plain PyTorch source; the message names the obstacle."""


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class name if the message is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def seed_names(slot: int) -> tuple[str, str]:
    """Return the attribute names of a slot's kernel and alpha in the exported source."""
    return f"kernel{slot}", f"alpha{slot}"


def model_source(model: nn.Module, grown: Mapping[str, Site], run_id: str) -> str:
    """Return source that defines `GrownNetwork` and `load`; call it in evaluation mode.

    Raises:
        ExportError: the forward depends on tensor values, or a layer is not one of torch.nn.
    """
    kernels = {
        seed.kernel.kernel_id: to_source(seed.kernel.plan, _kernel_class(seed.kernel.kernel_id))
        for site in grown.values()
        for _, seed in site.seeds()
    }
    parts = [
        HEADER.format(version=VERSION, run_id=run_id),
        *kernels.values(),
        *(_site_source(site) for site in grown.values()),
        _network_source(model, grown),
        FOOTER,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _kernel_class(kernel_id: str) -> str:
    return f"Kernel_{kernel_id[:12]}"


def _site_class(name: str) -> str:
    return "Site_" + re.sub(r"\W", "_", name)


def _site_source(site: Site) -> str:
    channels_first = site.adapter is forward_channels_first
    lines = [
        f"class {_site_class(site.name)}(nn.Module):",
        f'    """The layer {site.name} of the host, and what grew there."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        f"        self.layer = {_layer_source(site.name, site.layer)}",
    ]
    additions = []
    for slot, seed in site.seeds():
        kernel, alpha = seed_names(slot.index)
        lines.append(f"        self.{kernel} = {_kernel_class(seed.kernel.kernel_id)}()")
        lines.append(f'        self.register_buffer("{alpha}", torch.zeros(()))')
        additions.append(f"        y = y + self.{alpha} * self.{kernel}(x, h)")
    lines += [
        "",
        "    def forward(self, x):",
        "        h = self.layer(x)",
        *(["        x, h = x.mT, h.mT"] if channels_first else []),
        "        y = h",
        *additions,
        f"        return {'y.mT' if channels_first else 'y'}",
    ]
    return "\n".join(lines)


def _layer_source(name: str, layer: nn.Module) -> str:
    """Return the constructor call of a site's layer: a layer of torch.nn, or an `nn.Sequential`."""
    inside = {name: child for name, child in layer.named_children() if name != BANK_NAME}
    if not inside:
        return _constructor(name, layer)
    plain = type(layer) is nn.Sequential and list(inside) == [str(at) for at in range(len(inside))]
    if not plain or any(
        BANK_NAME in part._modules for child in inside.values() for part in child.modules()
    ):
        raise ExportError(
            f"{name} has inner layers and a seed planted around them; grow at single layers, or at "
            "an nn.Sequential of single layers"
        )
    parts = (_layer_source(f"{name}.{at}", child) for at, child in inside.items())
    return f"nn.Sequential({', '.join(parts)})"


class _Tracer(fx.Tracer):
    """A tracer to which a site, with its seeds, is one layer."""

    def __init__(self, grown: Mapping[str, Site]) -> None:
        super().__init__()
        self._grown = grown

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether to call a module instead of tracing into it."""
        return module_qualified_name in self._grown or super().is_leaf_module(
            m, module_qualified_name
        )


def _network_source(model: nn.Module, grown: Mapping[str, Site]) -> str:
    graph = _trace(model, grown)
    forward = _forward_source(graph)
    lines = [
        "class GrownNetwork(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *(2 * INDENT + line for line in _members(model, graph, grown)),
        "",
        *(INDENT + line if line.strip() else "" for line in forward.splitlines()),
    ]
    return "\n".join(lines)


def _trace(model: nn.Module, grown: Mapping[str, Site]) -> fx.Graph:
    before = set(vars(model))
    try:
        graph = _Tracer(grown).trace(model)
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__}.forward cannot be written as plain source, which takes a "
            f"forward whose course does not depend on values: {one_line(error)}"
        ) from error
    finally:
        # The tracer stores constants as attributes of the model.
        constants = vars(model).keys() - before
        for name in constants:
            delattr(model, name)
    if constants:
        raise ExportError(
            f"{type(model).__name__}.forward makes a tensor that does not depend on its input; "
            "register it as a buffer"
        )
    return graph


def _forward_source(graph: fx.Graph) -> str:
    for node in graph.nodes:
        # Annotations would name types that the exported file does not import.
        node.type = None
    code = graph.python_code("self")
    unknown = sorted(set(code.globals) - KNOWN_GLOBALS)
    if unknown:
        raise ExportError(
            f"the host's forward calls {', '.join(unknown)}, which is not part of torch; "
            "use operations of torch only"
        )
    # The tracer frees each intermediate value by name, which only clutters the source.
    return re.sub(r";\s+\w+(?: = \w+)* = None", "", code.src).strip("\n")


def _members(model: nn.Module, graph: fx.Graph, grown: Mapping[str, Site]) -> Iterator[str]:
    """Yield the statements of `__init__` that create every module and tensor of the graph."""
    made: set[str] = set()
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr") or node.target in made:
            continue
        name = str(node.target)
        made.add(name)
        yield from _containers(name, made)
        if node.op == "get_attr":
            yield _tensor(model, name)
        elif name in grown:
            yield _attach(name, f"{_site_class(name)}()")
        else:
            yield _attach(name, _constructor(name, model.get_submodule(name)))


def _containers(name: str, made: set[str]) -> Iterator[str]:
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        container = ".".join(parts[:depth])
        if container not in made:
            made.add(container)
            yield _attach(container, "nn.Module()")


def _attach(name: str, value: str) -> str:
    parent, _, last = name.rpartition(".")
    if not parent and last.isidentifier():
        return f"self.{last} = {value}"
    owner = f'self.get_submodule("{parent}")' if parent else "self"
    return f'{owner}.add_module("{last}", {value})'


def _tensor(model: nn.Module, name: str) -> str:
    parent, _, last = name.rpartition(".")
    owner = f'self.get_submodule("{parent}")' if parent else "self"
    module = model.get_submodule(parent)
    value = getattr(module, last)
    zeros = f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
    if isinstance(value, nn.Parameter):
        return f'{owner}.register_parameter("{last}", nn.Parameter({zeros}))'
    if last not in module._buffers:
        raise ExportError(f"{name} is a tensor but neither parameter nor buffer; register it")
    return f'{owner}.register_buffer("{last}", {zeros})'


def _constructor(name: str, layer: nn.Module) -> str:
    """Return the constructor call of a layer, checked by executing it."""
    kind = type(layer)
    call = f"nn.{kind.__name__}({layer.extra_repr()})"
    if getattr(nn, kind.__name__, None) is not kind:
        raise ExportError(
            f"{name} is a {kind.__qualname__}, which is not a layer of torch.nn; "
            "use a layer of torch.nn"
        )
    try:
        twin = eval(call, {"nn": nn, "torch": torch})
    except (SyntaxError, TypeError, NameError, ValueError) as error:
        raise ExportError(f"{name} cannot be written as {call}: {error}") from error
    if _shapes(twin) != _shapes(layer):
        raise ExportError(f"{name} has other tensors than {call} creates; use the plain layer")
    return call


def _shapes(layer: nn.Module) -> dict[str, torch.Size]:
    own = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    return {name: tensor.shape for name, tensor in own.items()}
