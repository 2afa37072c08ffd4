"""One path at several sites at once: its weights are stacked, and one call computes all."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from esper.audition.paths import AuditionPath
from esper.kernel import KernelPlan


class PathStack:
    """Copies of one path, which train apart, on samples (S, B, ...) of S sites.

    `parameters` are the weights to train: (S, ...) each, or the path's own where there is one site.
    """

    def __init__(self, path: AuditionPath, sites: int) -> None:
        self._path = path
        named = dict(path.named_parameters())
        self.parameters: Mapping[str, Tensor] = named
        if sites > 1:
            self.parameters = {
                name: one.detach().expand(sites, *one.shape).clone().requires_grad_()
                for name, one in named.items()
            }
        # Dropout is the same at every site, as it is for kernels that train one after another.
        self._stacked = vmap(self._call, randomness="same") if sites > 1 else None

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the corrections (S, B, P, C) for x (S, B, *x) and h (S, B, *h)."""
        if self._stacked is None:
            alone: Tensor = self._path(x[0], h[0])
            return alone.unsqueeze(0)
        result: Tensor = self._stacked(self.parameters, x, h)
        return result

    def train(self, mode: bool) -> None:
        """Set the mode of ops such as dropout."""
        self._path.train(mode)

    def path(self, index: int) -> AuditionPath:
        """Return the path with the weights of one site, valid until the next call."""
        if self._stacked is not None:
            with torch.no_grad():
                for name, parameter in self._path.named_parameters():
                    parameter.copy_(self.parameters[name][index])
        return self._path

    def _call(self, parameters: Any, x: Tensor, h: Tensor) -> Any:
        return functional_call(self._path, parameters, (x, h))


def has_convolution(plan: KernelPlan) -> bool:
    """Return whether a kernel has a convolution: on a CPU, stacked ones are the slower."""
    return any(step.op.startswith("conv") for step in plan.steps)


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors of one shape as one tensor; a single one without a copy."""
    every = tuple(tensors)
    return every[0].unsqueeze(0) if len(every) == 1 else torch.stack(every)
