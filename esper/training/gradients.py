"""How large the loss gradient of each site's layer is, in the optimizer steps that are reported."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.seed import Site
from esper.seed.forward_adapters import BANK
from esper.training.optimizer import OptimizerMembership


class GradientNorms:
    """The norms of one optimizer step at a time: of the one after `measure_next_step`.

    What is computed then stays on the model's device until it is taken: one synchronisation.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._names: tuple[str, ...] = ()
        self._norms: Tensor | None = None

    def measure_next_step(self, membership: OptimizerMembership) -> None:
        """Measure in the next step of the optimizer; what was not taken is forgotten."""
        self._norms = None
        membership.before_next_step(self._measure)

    def take(self) -> dict[str, float]:
        """Return the norms by site; those that are not finite, or not known, are left out."""
        norms, self._norms = self._norms, None
        if norms is None:
            return {}
        values = zip(self._names, norms.tolist(), strict=True)
        return {name: value for name, value in values if math.isfinite(value)}

    def _measure(self, optimizer: Optimizer) -> None:
        found = {name: list(_gradients(site.layer)) for name, site in self._sites.items()}
        norms = {name: _norm(gradients) for name, gradients in found.items() if gradients}
        if not norms:
            return
        device = next(iter(norms.values())).device
        self._names = tuple(norms)
        self._norms = torch.stack([norm.to(device) for norm in norms.values()])
        # A fused optimizer undoes the scale of a loss itself, in the step.
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            self._norms = self._norms / scale.to(device)


def _gradients(layer: nn.Module) -> Iterator[Tensor]:
    """Yield the gradients of a host's layer, without those of what is planted in it."""
    for name, parameter in layer.named_parameters():
        gradient = parameter.grad
        own = BANK not in name.split(".")
        if own and gradient is not None and gradient.layout is torch.strided:
            yield gradient.detach()


def _norm(gradients: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(gradients, 2.0, dtype=torch.float32)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
