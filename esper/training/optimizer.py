"""Keeping every parameter of a growing model in exactly one optimizer group."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

Named = Iterable[tuple[str, nn.Parameter]]


class ParameterUntrained(ValueError):
    """A site's layer has no parameter in the optimizer, so nothing grown there would train."""


class OptimizerMembership:
    """Adds and removes kernels' parameters in the group that trains their site's layer.

    Joining an existing group, rather than adding one, keeps learning rate schedules whole: they
    hold one base rate per group that was there when they were made.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def check(self, name: str, layer: nn.Module) -> None:
        """Raise ParameterUntrained unless the optimizer trains a parameter of the layer."""
        self._group_of(name, layer)

    def add(self, name: str, layer: nn.Module, parameters: Named) -> None:
        """Let the optimizer train these parameters as it trains the layer's own.

        Raises:
            ParameterUntrained: it no longer trains the layer.
        """
        group = self._group_of(name, layer)
        known = self._known()
        for full_name, parameter in parameters:
            if id(parameter) not in known:
                group["params"].append(parameter)
                if "param_names" in group:
                    group["param_names"].append(full_name)

    def remove(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take parameters out of their groups, and drop what the optimizer remembers of them."""
        leaving = {id(parameter): parameter for parameter in parameters}
        for group in self._optimizer.param_groups:
            stay = [index for index, kept in enumerate(group["params"]) if id(kept) not in leaving]
            # In place: a training loop may hold on to these lists.
            for key in {"params", "param_names"} & group.keys():
                group[key][:] = [group[key][index] for index in stay]
        for parameter in leaving.values():
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None

    def _group_of(self, name: str, layer: nn.Module) -> dict[str, Any]:
        # Its first parameter decides, the weight: a bias is often kept in a group without decay.
        for own in layer.parameters():
            for group in self._optimizer.param_groups:
                if any(parameter is own for parameter in group["params"]):
                    found: dict[str, Any] = group
                    return found
        raise ParameterUntrained(
            f"no parameter of {name} is in the optimizer; build the optimizer with the model's "
            "parameters before calling grow, or name a site that it trains"
        )

    def _known(self) -> set[int]:
        groups = self._optimizer.param_groups
        return {id(parameter) for group in groups for parameter in group["params"]}
