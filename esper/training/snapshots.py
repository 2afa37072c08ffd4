"""A ring of snapshots in host memory, to which a run returns when a kernel spoils it."""

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

ParameterState = dict[str, Any]
"""The optimizer's state of one parameter: tensors and other values."""


class SnapshotScope(StrEnum):
    """What snapshots hold, by the memory that two of them need."""

    EVERYTHING = "all parameters and buffers"
    TRAINED = "trained parameters and buffers"
    NOTHING = "nothing"


@dataclass(slots=True, eq=False)
class Snapshot:
    """Weights, buffers, optimizer state and the state of the loss monitor at a step.

    `tensors` and `states` map each live tensor to its copy. `good` says that the loss stayed
    healthy for long enough after the step.
    """

    step: int
    loss_monitor_state: LossMonitorState
    tensors: dict[Tensor, Tensor]
    states: dict[Tensor, ParameterState]
    good: bool = False

    def holds(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether the snapshot holds a copy of all these tensors."""
        return all(tensor in self.tensors for tensor in tensors)


class SnapshotRing:
    """Up to `most` snapshots of one model and its optimizer, `most_bytes` in total.

    The newest good snapshot is replaced last.
    """

    def __init__(self, model: nn.Module, most: int, most_bytes: int) -> None:
        self._model = model
        self._most = most
        self._most_bytes = most_bytes
        self._ring: list[Snapshot] = []
        self._scope = SnapshotScope.EVERYTHING

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that all snapshots take."""
        return sum(
            sum(copied.nbytes for copied in snapshot.tensors.values())
            + sum(_nbytes(state) for state in snapshot.states.values())
            for snapshot in self._ring
        )

    @property
    def scope(self) -> SnapshotScope:
        """What the last snapshot held."""
        return self._scope

    def take(
        self,
        step: int,
        loss_monitor_state: LossMonitorState,
        optimizer: Optimizer,
        excluded: Iterable[Tensor],
    ) -> Snapshot | None:
        """Add a snapshot and return it; None if the memory does not suffice for two.

        `excluded` are buffers that follow the step, not the training: blend factors. On a GPU the
        copies are queued on the current stream, and this call does not wait for them.
        """
        content = self._content(optimizer, excluded)
        if content is None:
            self._ring.clear()
            return None
        tensors, states, capacity = content
        taken = self._reused(capacity) or Snapshot(step, loss_monitor_state, {}, {})
        taken.step, taken.loss_monitor_state, taken.good = step, loss_monitor_state, False
        taken.tensors = {tensor: _copied(tensor, taken.tensors.get(tensor)) for tensor in tensors}
        taken.states = {
            parameter: _copied_state(state, taken.states.get(parameter))
            for parameter, state in states.items()
        }
        self._ring.append(taken)
        return taken

    def confirm(self, step: int, healthy_steps: int, confirm_steps: int) -> None:
        """Mark the snapshots as good that `confirm_steps` healthy steps have followed."""
        for snapshot in self._ring:
            if min(healthy_steps, step - snapshot.step) >= confirm_steps:
                snapshot.good = True

    def last_good(self) -> Snapshot | None:
        """Return the newest good snapshot, or None."""
        return next((snapshot for snapshot in reversed(self._ring) if snapshot.good), None)

    def at_step(self, step: int) -> Snapshot | None:
        """Return the snapshot of a step, or None."""
        return next((snapshot for snapshot in self._ring if snapshot.step == step), None)

    def restore(self, snapshot: Snapshot, optimizer: Optimizer) -> None:
        """Write a snapshot's weights, buffers and optimizer state back; drop later snapshots.

        Tensors are written in place. Tensors without a copy stay as they are, and so do
        hyperparameters, which schedulers own. Gradients of restored tensors are set to zero: they
        belong to the lost weights.
        """
        for tensor, copied in snapshot.tensors.items():
            tensor.detach().copy_(copied)
            if tensor.grad is not None:
                tensor.grad.detach().zero_()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in snapshot.tensors:
                    _write_state(optimizer, parameter, snapshot.states.get(parameter))
        self._ring = [taken for taken in self._ring if taken.step <= snapshot.step]

    def keep_only_with(self, tensors: Iterable[Tensor]) -> None:
        """Drop the snapshots that lack a copy of one of these tensors."""
        tensors = list(tensors)
        self._ring = [snapshot for snapshot in self._ring if snapshot.holds(tensors)]

    def clear(self) -> None:
        """Drop all snapshots."""
        self._ring.clear()

    def _content(
        self, optimizer: Optimizer, excluded: Iterable[Tensor]
    ) -> tuple[list[Tensor], dict[Tensor, ParameterState], int] | None:
        """Return tensors and states to copy and the ring's capacity; None below two snapshots."""
        out = {id(tensor) for tensor in excluded}
        buffers = [buffer for buffer in self._model.buffers() if id(buffer) not in out]
        parameters: list[Tensor] = list(self._model.parameters())
        own = {id(parameter) for parameter in parameters}
        states = {of: state for of, state in optimizer.state.items() if id(of) in own}
        trained = {id(member) for group in optimizer.param_groups for member in group["params"]}
        state_bytes = sum(_nbytes(state) for state in states.values())
        for scope, chosen in (
            (SnapshotScope.EVERYTHING, parameters),
            (SnapshotScope.TRAINED, [tensor for tensor in parameters if id(tensor) in trained]),
        ):
            tensors = [*chosen, *buffers]
            size = state_bytes + sum(tensor.nbytes for tensor in tensors)
            capacity = min(self._most, self._most_bytes // max(size, 1))
            if capacity > 1:
                self._set_scope(scope, size)
                return tensors, states, capacity
        self._set_scope(SnapshotScope.NOTHING, size)
        return None

    def _set_scope(self, scope: SnapshotScope, size: int) -> None:
        if scope is not self._scope:
            log.warning(
                "the governor's snapshots hold %s: one takes %.1f MiB, and %.1f MiB must hold two; "
                "raise snapshot_bytes to hold more",
                scope,
                size / 2**20,
                self._most_bytes / 2**20,
            )
        self._scope = scope

    def _reused(self, capacity: int) -> Snapshot | None:
        """Make room for one snapshot; return a dropped one, whose memory can be reused."""
        dropped = None
        while len(self._ring) >= capacity:
            last = self.last_good()
            dropped = next(snapshot for snapshot in self._ring if snapshot is not last)
            self._ring.remove(dropped)
        return dropped


def _copied(tensor: Tensor, into: Tensor | None) -> Tensor:
    """Return a copy in host memory, written into an older copy's memory if that fits."""
    tensor = tensor.detach()
    if into is None or into.shape != tensor.shape or into.dtype != tensor.dtype:
        into = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return into.copy_(tensor, non_blocking=True)


def _copied_state(state: ParameterState, into: ParameterState | None) -> ParameterState:
    into = into or {}
    return {
        key: _copied(value, into.get(key)) if isinstance(value, Tensor) else copy.deepcopy(value)
        for key, value in state.items()
    }


def _write_state(optimizer: Optimizer, parameter: Tensor, kept: ParameterState | None) -> None:
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
            # A step counter may be on the CPU although its parameter is not.
            state[key] = value.to("cpu" if value.dim() == 0 else parameter.device, copy=True)
        else:
            state[key] = copy.deepcopy(value)


def _nbytes(state: ParameterState) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
