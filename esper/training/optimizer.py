"""Keeping every parameter of a growing model in exactly one optimizer group."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from esper.errors import EsperError
from esper.training.transaction import Transaction

NamedParameters = Iterable[tuple[str, nn.Parameter]]

_LISTS: Final = frozenset({"params", "param_names"})
"""Keys of a group with one entry per parameter; `param_names` only if the user gave names."""


class ParameterUntrained(EsperError, ValueError):
    """A site's layer has no parameter in the optimizer, so seeds at that site would not train."""


class OptimizerRefused(EsperError, ValueError):
    """An optimizer that cannot take in or drop parameters; the message says why."""


class _ParamPosition(NamedTuple):
    """A parameter's group, and a position in the group at or after the parameter."""

    group: dict[str, Any]
    position: int


class OptimizerMembership:
    """Adds kernels' parameters to the group that trains their site's layer, and removes them.

    Joining an existing group keeps learning rate schedulers valid: they hold one base rate per
    group that existed when they were made. An operation costs time in proportion to the parameters
    that join or leave, not to those that stay.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Raise OptimizerRefused if parameters cannot join or leave this optimizer."""
        if isinstance(optimizer, LBFGS):
            raise OptimizerRefused(
                "LBFGS keeps one vector over all its parameters, so none can join or leave; "
                "grow with another optimizer, for instance Adam"
            )
        if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
            raise OptimizerRefused(
                "ZeroRedundancyOptimizer divided its parameters among the ranks when it was made; "
                "grow with another optimizer, for instance Adam"
            )
        self._optimizer = optimizer
        self._found: dict[int, _ParamPosition] = {}
        self._stepped = False
        self._after_step = optimizer.register_step_post_hook(self._note_step)
        self._before_step: RemovableHandle | None = None

    @property
    def optimizer(self) -> Optimizer:
        """The wrapped optimizer."""
        return self._optimizer

    def stepped(self) -> bool:
        """Return whether the optimizer has taken a step since the last call."""
        stepped, self._stepped = self._stepped, False
        return stepped

    def before_next_step(self, act: Callable[[Optimizer], None]) -> None:
        """Call `act` once, when the optimizer begins its next step.

        A pending call of an earlier `act` is cancelled. The optimizer holds a hook only while a
        call is pending.
        """
        self._remove_before_step()
        self._before_step = self._optimizer.register_step_pre_hook(
            lambda optimizer, *_: act(optimizer)
        )

    def close(self) -> None:
        """Remove all hooks from the optimizer."""
        self._after_step.remove()
        self._remove_before_step()

    def check(self, name: str, layer: nn.Module) -> None:
        """Raise ParameterUntrained unless the optimizer trains a parameter of the layer."""
        self._group_of(name, layer)

    def trains(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Return whether the optimizer trains all of these parameters."""
        return all(self._find(parameter) is not None for parameter in parameters)

    def add(
        self,
        name: str,
        layer: nn.Module,
        parameters: NamedParameters,
        transaction: Transaction | None = None,
    ) -> None:
        """Add parameters to the group that trains `layer`; skip those that are in a group already.

        A rollback of `transaction` removes them again.

        Raises:
            ParameterUntrained: the optimizer trains no parameter of the layer `name`.
        """
        group = self._group_of(name, layer)
        if transaction is not None:
            lengths = {key: len(group[key]) for key in _LISTS & group.keys()}
            transaction.callback(self._shorten, lengths, group)
        for full_name, parameter in parameters:
            if self._find_cached(parameter) is None:
                self._found[id(parameter)] = _ParamPosition(group, len(group["params"]))
                group["params"].append(parameter)
                if "param_names" in group:
                    group["param_names"].append(full_name)

    def remove(
        self, parameters: Iterable[nn.Parameter], transaction: Transaction | None = None
    ) -> None:
        """Remove parameters from their groups, with their optimizer state and gradients.

        A rollback of `transaction` restores groups, order, state and gradients.
        """
        for parameter in parameters:
            if transaction is not None:
                transaction.callback(self._kept(parameter))
            if (found := self._find(parameter)) is not None:
                # In place: a training loop may hold on to these lists.
                for key in _LISTS & found.group.keys():
                    del found.group[key][found.position]
                del self._found[id(parameter)]
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None

    def where(self, parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
        """Return (index of the group, position in the group) of the first that is in a group.

        Return (-1, 0) if none is.
        """
        for parameter in parameters:
            if (found := self._find(parameter)) is not None:
                groups = enumerate(self._optimizer.param_groups)
                return next(at for at, group in groups if group is found.group), found.position
        return -1, 0

    def _note_step(self, *_: object) -> None:
        self._stepped = True
        self._remove_before_step()

    def _remove_before_step(self) -> None:
        if self._before_step is not None:
            self._before_step.remove()
            self._before_step = None

    def _shorten(self, lengths: Mapping[str, int], group: dict[str, Any]) -> None:
        for key, length in lengths.items():
            del group[key][length:]
        self._found.clear()

    def _kept(self, parameter: nn.Parameter) -> Callable[[], None]:
        """Return a function that restores a parameter's position, gradient and optimizer state."""
        found, grad = self._find(parameter), parameter.grad
        state = self._optimizer.state.get(parameter)
        group, position = found or ({}, 0)
        entries = {key: group[key][position] for key in _LISTS & group.keys()}

        def put_back() -> None:
            for key, value in entries.items():
                present = group[key][position : position + 1]
                if not (present and present[0] is value):
                    group[key].insert(position, value)
            if state is not None:
                self._optimizer.state[parameter] = state
            parameter.grad = grad
            # A cached position must not be before its parameter, and this one has moved back.
            self._found.clear()

        return put_back

    def _group_of(self, name: str, layer: nn.Module) -> dict[str, Any]:
        # The first parameter decides, the weight: a bias is often in a group without weight decay.
        for parameter in layer.parameters():
            if (found := self._find(parameter)) is not None:
                return found.group
        raise ParameterUntrained(
            f"no parameter of {name} is in the optimizer; build the optimizer with the model's "
            "parameters before calling grow, or name a site that the optimizer trains"
        )

    def _find(self, parameter: nn.Parameter) -> _ParamPosition | None:
        """Return a parameter's group and exact position; None if it is in no group."""
        if (found := self._find_cached(parameter)) is not None:
            return found
        # The user may have added or changed groups.
        self._found = {
            id(member): _ParamPosition(group, position)
            for group in self._optimizer.param_groups
            for position, member in enumerate(group["params"])
        }
        return self._found.get(id(parameter))

    def _find_cached(self, parameter: nn.Parameter) -> _ParamPosition | None:
        """Return a parameter's group and index if it is at or before its cached position.

        Parameters that were removed since have moved it forward by as many entries.
        """
        found = self._found.get(id(parameter))
        if found is None or not any(found.group is group for group in self._optimizer.param_groups):
            return None
        present = found.group["params"]
        for position in range(min(found.position, len(present) - 1), -1, -1):
            if present[position] is parameter:
                self._found[id(parameter)] = exact = _ParamPosition(found.group, position)
                return exact
        return None
