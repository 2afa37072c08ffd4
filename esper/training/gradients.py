"""The norm of the loss gradient at each site's layer, in the optimizer steps that are reported."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.seed import BANK_NAME, Site, foreach_norm

BeforeNextStep = Callable[[Callable[[Optimizer], None]], None]
"""Registers a function that the optimizer calls once, when it begins its next step."""


class GradientNorms:
    """Gradient norms of one optimizer step at a time: of the step after `measure_next_step`.

    They stay on the model's device until `take`, which is the only synchronisation with a GPU.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._names: tuple[str, ...] = ()
        self._norms: Tensor | None = None

    def measure_next_step(self, before_next_step: BeforeNextStep) -> None:
        """Measure in the optimizer's next step; discard norms that were not taken."""
        self._norms = None
        before_next_step(self._measure)

    def take(self) -> dict[str, float]:
        """Return the L2 norms by site; sites without a gradient or a finite norm are left out."""
        norms, self._norms = self._norms, None
        if norms is None:
            return {}
        values = zip(self._names, norms.tolist(), strict=True)
        return {name: value for name, value in values if math.isfinite(value)}

    def _measure(self, optimizer: Optimizer) -> None:
        gradients = {name: list(_gradients(site.layer)) for name, site in self._sites.items()}
        norms = {name: _norm(own) for name, own in gradients.items() if own}
        if not norms:
            return
        device = next(iter(norms.values())).device
        self._names = tuple(norms)
        self._norms = torch.stack([norm.to(device) for norm in norms.values()])
        # A fused optimizer divides by the loss scale only inside its step.
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            self._norms = self._norms / scale.to(device)


def _gradients(layer: nn.Module) -> Iterator[Tensor]:
    """Yield the gradients of a host's layer, without those of the seeds planted in it."""
    for name, parameter in layer.named_parameters():
        gradient = parameter.grad
        own = BANK_NAME not in name.split(".")
        if own and gradient is not None and gradient.layout is torch.strided:
            yield gradient.detach()


def _norm(gradients: list[Tensor]) -> Tensor:
    norms = foreach_norm(gradients, 2.0, dtype=torch.float32)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
