"""The ring of snapshots: what a run was, in host memory, to go back to when a kernel spoils it."""

import copy
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.training.loss_monitor import LossMonitorState

log = logging.getLogger("esper")

State = dict[str, Any]
"""What an optimizer remembers of one parameter: tensors, and other values."""


class Reach(StrEnum):
    """What snapshots hold, by what there is room for."""

    EVERYTHING = "everything"
    TRAINED = "what is trained, and buffers"
    NOTHING = "nothing"


@dataclass(slots=True, eq=False)
class Snapshot:
    """What weights, buffers and optimizer state were at a step, and what was known of the loss.

    Copies are kept by the tensor that they are of. `good` is whether the loss stayed sound.
    """

    step: int
    loss_monitor_state: LossMonitorState
    tensors: dict[Tensor, Tensor]
    states: dict[Tensor, State]
    good: bool = False

    def holds(self, tensors: Iterable[Tensor]) -> bool:
        """Whether all of these are in it."""
        return all(tensor in self.tensors for tensor in tensors)


class SnapshotRing:
    """A few snapshots of one model and its optimizer; the newest good one is kept longest.

    `kept_out` in `take` are tensors that follow the step, not the training: blend factors.
    """

    def __init__(self, model: nn.Module, most: int, most_bytes: int) -> None:
        self._model = model
        self._most = most
        self._most_bytes = most_bytes
        self._ring: list[Snapshot] = []
        self._reach = Reach.EVERYTHING

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def nbytes(self) -> int:
        """How much host memory all snapshots take."""
        return sum(
            sum(copied.nbytes for copied in each.tensors.values())
            + sum(_size_of(state) for state in each.states.values())
            for each in self._ring
        )

    @property
    def reach(self) -> Reach:
        """What the last snapshot held."""
        return self._reach

    def take(
        self,
        step: int,
        loss_monitor_state: LossMonitorState,
        optimizer: Optimizer,
        kept_out: Iterable[Tensor],
    ) -> Snapshot | None:
        """Copy everything; None where there is no room.

        On a GPU the copies are made behind what it has to do, and no one waits for them.
        """
        own = self._own(optimizer, kept_out)
        if own is None:
            self._ring.clear()
            return None
        tensors, states, room = own
        taken = self._freed(room) or Snapshot(step, loss_monitor_state, {}, {})
        taken.step, taken.loss_monitor_state, taken.good = step, loss_monitor_state, False
        taken.tensors = {each: _copied(each, taken.tensors.get(each)) for each in tensors}
        taken.states = {
            each: _copied_state(state, taken.states.get(each)) for each, state in states.items()
        }
        self._ring.append(taken)
        return taken

    def confirm(self, step: int, healthy_steps: int, confirm_steps: int) -> None:
        """Call those good after which the loss was sound for long enough."""
        for each in self._ring:
            if min(healthy_steps, step - each.step) >= confirm_steps:
                each.good = True

    def last_good(self) -> Snapshot | None:
        """Return the newest that is good."""
        return next((each for each in reversed(self._ring) if each.good), None)

    def of_step(self, step: int) -> Snapshot | None:
        """Return the one that was taken at a step."""
        return next((each for each in self._ring if each.step == step), None)

    def put_back(self, snapshot: Snapshot, optimizer: Optimizer) -> None:
        """Make weights, buffers and optimizer state what they were; drop what came later.

        Tensors are written in place. What is not in the snapshot stays; hyperparameters stay too,
        for schedules own them. Gradients of what is written were made by lost weights: zero.
        """
        for tensor, copied in snapshot.tensors.items():
            tensor.detach().copy_(copied)
            if tensor.grad is not None:
                tensor.grad.detach().zero_()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in snapshot.tensors:
                    _write_state(optimizer, parameter, snapshot.states.get(parameter))
        self._ring = [each for each in self._ring if each.step <= snapshot.step]

    def keep_only_with(self, tensors: Iterable[Tensor]) -> None:
        """Drop those that lack one of these."""
        tensors = list(tensors)
        self._ring = [each for each in self._ring if each.holds(tensors)]

    def clear(self) -> None:
        """Drop all."""
        self._ring.clear()

    def _own(
        self, optimizer: Optimizer, kept_out: Iterable[Tensor]
    ) -> tuple[list[Tensor], dict[Tensor, State], int] | None:
        """Return what is to be copied, and of how many there is room; None: not of two."""
        out = {id(each) for each in kept_out}
        buffers = [each for each in self._model.buffers() if id(each) not in out]
        every: list[Tensor] = list(self._model.parameters())
        trained = {id(each) for group in optimizer.param_groups for each in group["params"]}
        of_model = {id(each) for each in every}
        states = {each: state for each, state in optimizer.state.items() if id(each) in of_model}
        kept = sum(_size_of(state) for state in states.values())
        for reach, parameters in (
            (Reach.EVERYTHING, every),
            (Reach.TRAINED, [each for each in every if id(each) in trained]),
        ):
            tensors = [*parameters, *buffers]
            size = kept + sum(each.nbytes for each in tensors)
            room = min(self._most, self._most_bytes // max(size, 1))
            if room > 1:
                self._note(reach, size)
                return tensors, states, room
        self._note(Reach.NOTHING, size)
        return None

    def _note(self, reach: Reach, size: int) -> None:
        if reach is not self._reach:
            log.warning(
                "the governor's snapshots hold %s: one takes %.1f MiB, and %.1f MiB must hold two",
                reach,
                size / 2**20,
                self._most_bytes / 2**20,
            )
        self._reach = reach

    def _freed(self, room: int) -> Snapshot | None:
        """Make room for one more; return one whose memory it may use, if one had to go."""
        freed = None
        while len(self._ring) >= room:
            last = self.last_good()
            freed = next(each for each in self._ring if each is not last)
            self._ring.remove(freed)
        return freed


def _copied(tensor: Tensor, into: Tensor | None) -> Tensor:
    """Return a copy in host memory, in the memory of an older one if that fits."""
    tensor = tensor.detach()
    if into is None or into.shape != tensor.shape or into.dtype != tensor.dtype:
        into = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return into.copy_(tensor, non_blocking=True)


def _copied_state(state: State, into: State | None) -> State:
    into = into or {}
    return {
        key: _copied(value, into.get(key)) if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def _write_state(optimizer: Optimizer, parameter: Tensor, kept: State | None) -> None:
    if kept is None:
        optimizer.state.pop(parameter, None)
        return
    state = optimizer.state[parameter]
    for key in state.keys() - kept.keys():
        del state[key]
    for key, value in kept.items():
        present = state.get(key)
        if isinstance(value, Tensor) and isinstance(present, Tensor):
            present.detach().copy_(value)
        elif isinstance(value, Tensor):
            # A counter may live on the CPU beside a parameter that does not.
            state[key] = value.to("cpu" if value.dim() == 0 else parameter.device, copy=True)
        else:
            state[key] = copy.deepcopy(value)


def _size_of(state: State) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
