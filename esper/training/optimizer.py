"""Keeping every parameter of a growing model in exactly one optimizer group."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

Named = Iterable[tuple[str, nn.Parameter]]


_LISTS: Final = frozenset({"params", "param_names"})
"""What a group has one of for each parameter; names only where the user gave them."""


class ParameterUntrained(ValueError):
    """A site's layer has no parameter in the optimizer, so nothing grown there would train."""


class OptimizerRefused(ValueError):
    """An optimizer that cannot train parameters which come and go; the message says why."""


class _Place(NamedTuple):
    """Where a parameter stands: its group, and its position there or one beyond it."""

    group: dict[str, Any]
    position: int


class OptimizerMembership:
    """Adds and removes kernels' parameters in the group that trains their site's layer.

    Joining an existing group, rather than adding one, keeps learning rate schedules whole: they
    hold one base rate per group that was there when they were made. What an operation costs grows
    with the parameters that come or go, not with those that stay.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        """Raise OptimizerRefused where parameters cannot join or leave."""
        if isinstance(optimizer, LBFGS):
            raise OptimizerRefused(
                "LBFGS keeps one vector over all its parameters, so none can join or leave; "
                "grow with another optimizer, for instance Adam"
            )
        if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
            raise OptimizerRefused(
                "ZeroRedundancyOptimizer shared its parameters out among ranks when it was made; "
                "grow with another optimizer, for instance Adam"
            )
        self._optimizer = optimizer
        self._places: dict[int, _Place] = {}
        self._stepped = False
        self._watch = optimizer.register_step_post_hook(self._note_step)
        self._ahead: RemovableHandle | None = None

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer itself."""
        return self._optimizer

    def stepped(self) -> bool:
        """Whether the optimizer has taken a step since this was last asked."""
        stepped, self._stepped = self._stepped, False
        return stepped

    def before_next_step(self, act: Callable[[Optimizer], None]) -> None:
        """Call `act` once, as the optimizer begins its next step; in place of one not called yet.

        Between such calls nothing of it is left with the optimizer.
        """
        self._look_ahead_no_more()
        self._ahead = self._optimizer.register_step_pre_hook(lambda optimizer, *_: act(optimizer))

    def close(self) -> None:
        """Look at the optimizer no more."""
        self._watch.remove()
        self._look_ahead_no_more()

    def _look_ahead_no_more(self) -> None:
        if self._ahead is not None:
            self._ahead.remove()
            self._ahead = None

    def _note_step(self, *_: object) -> None:
        self._stepped = True
        self._look_ahead_no_more()

    def check(self, name: str, layer: nn.Module) -> None:
        """Raise ParameterUntrained unless the optimizer trains a parameter of the layer."""
        self._group_of(name, layer)

    def trains(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether the optimizer trains all of these parameters."""
        return all(self._place_of(parameter) is not None for parameter in parameters)

    def add(
        self, name: str, layer: nn.Module, parameters: Named, undo: ExitStack | None = None
    ) -> None:
        """Let the optimizer train these parameters as it trains the layer's own.

        `undo` gets what takes them out again.

        Raises:
            ParameterUntrained: it no longer trains the layer.
        """
        group = self._group_of(name, layer)
        if undo is not None:
            undo.callback(
                self._shorten, {key: len(group[key]) for key in _LISTS & group.keys()}, group
            )
        for full_name, parameter in parameters:
            if self._seen(parameter) is None:
                self._places[id(parameter)] = _Place(group, len(group["params"]))
                group["params"].append(parameter)
                if "param_names" in group:
                    group["param_names"].append(full_name)

    def remove(self, parameters: Iterable[nn.Parameter], undo: ExitStack | None = None) -> None:
        """Take parameters out of their groups, and drop what the optimizer remembers of them.

        `undo` gets what puts all of it back where it was.
        """
        for parameter in parameters:
            if undo is not None:
                undo.callback(self._kept(parameter))
            if (place := self._place_of(parameter)) is not None:
                # In place: a training loop may hold on to these lists.
                for key in _LISTS & place.group.keys():
                    del place.group[key][place.position]
                del self._places[id(parameter)]
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None

    def _shorten(self, lengths: Mapping[str, int], group: dict[str, Any]) -> None:
        for key, length in lengths.items():
            del group[key][length:]
        self._places.clear()

    def _kept(self, parameter: nn.Parameter) -> Callable[[], None]:
        """Return what puts a parameter back where it is now, with its gradient and its state."""
        place, grad = self._place_of(parameter), parameter.grad
        state = self._optimizer.state.get(parameter)
        group, position = place or ({}, 0)
        held = {key: group[key][position] for key in _LISTS & group.keys()}

        def put_back() -> None:
            for key, value in held.items():
                there = group[key][position : position + 1]
                if not (there and there[0] is value):
                    group[key].insert(position, value)
            if state is not None:
                self._optimizer.state[parameter] = state
            parameter.grad = grad
            # Places are looked for before where they were last seen, and these have moved back.
            self._places.clear()

        return put_back

    def where(self, parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
        """Return the group, by number, and the position of the first of these parameters.

        Those that it does not have stand before all others.
        """
        for parameter in parameters:
            if (place := self._place_of(parameter)) is not None:
                groups = self._optimizer.param_groups
                number = next(at for at, group in enumerate(groups) if group is place.group)
                return number, place.position
        return -1, 0

    def _group_of(self, name: str, layer: nn.Module) -> dict[str, Any]:
        # Its first parameter decides, the weight: a bias is often kept in a group without decay.
        for own in layer.parameters():
            if (place := self._place_of(own)) is not None:
                return place.group
        raise ParameterUntrained(
            f"no parameter of {name} is in the optimizer; build the optimizer with the model's "
            "parameters before calling grow, or name a site that it trains"
        )

    def _place_of(self, parameter: nn.Parameter) -> _Place | None:
        """Return where a parameter stands; None where it is in no group."""
        if (place := self._seen(parameter)) is not None:
            return place
        # The user may have added or changed groups.
        self._places = {
            id(each): _Place(group, position)
            for group in self._optimizer.param_groups
            for position, each in enumerate(group["params"])
        }
        return self._places.get(id(parameter))

    def _seen(self, parameter: nn.Parameter) -> _Place | None:
        """Return where a parameter stands, if it stands where it was last seen or before that.

        Those that left since have moved it forward, by as many places.
        """
        place = self._places.get(id(parameter))
        if place is None or not any(place.group is one for one in self._optimizer.param_groups):
            return None
        present = place.group["params"]
        for position in range(min(place.position, len(present) - 1), -1, -1):
            if present[position] is parameter:
                self._places[id(parameter)] = found = _Place(place.group, position)
                return found
        return None
