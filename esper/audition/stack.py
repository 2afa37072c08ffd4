"""One path at several sites at once: its weights are stacked, and one call computes all."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from esper.audition.paths import AuditionPath
from esper.kernel import KernelPlan


class PathStack:
    """Copies of one path, which train apart: parameters (S, ...), samples (S, B, ...)."""

    def __init__(self, path: AuditionPath, sites: int) -> None:
        self._path = path
        self.parameters: Mapping[str, Tensor] = {
            name: parameter.detach().expand(sites, *parameter.shape).clone().requires_grad_()
            for name, parameter in path.named_parameters()
        }
        # Dropout is the same at every site, as it is for kernels that train one after another.
        self._stacked = vmap(self._call, randomness="same") if sites > 1 else self._alone

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the corrections (S, B, P, C) for x (S, B, *x) and h (S, B, *h)."""
        result: Tensor = self._stacked(self.parameters, x, h)
        return result

    def train(self, mode: bool) -> None:
        """Set the mode of ops such as dropout."""
        self._path.train(mode)

    def path(self, index: int) -> AuditionPath:
        """Return the path with the weights of one site, valid until the next call."""
        with torch.no_grad():
            for name, parameter in self._path.named_parameters():
                parameter.copy_(self.parameters[name][index])
        return self._path

    def _call(self, parameters: Any, x: Tensor, h: Tensor) -> Any:
        return functional_call(self._path, parameters, (x, h))

    def _alone(self, parameters: Mapping[str, Tensor], x: Tensor, h: Tensor) -> Any:
        own = {name: parameter.squeeze(0) for name, parameter in parameters.items()}
        return self._call(own, x.squeeze(0), h.squeeze(0)).unsqueeze(0)


def has_convolution(plan: KernelPlan) -> bool:
    """Return whether a kernel has a convolution: on a CPU, stacked ones are the slower."""
    return any(step.op.startswith("conv") for step in plan.steps)


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors of one shape as one tensor; a single one without a copy."""
    every = tuple(tensors)
    return every[0].unsqueeze(0) if len(every) == 1 else torch.stack(every)
