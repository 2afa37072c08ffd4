"""All-or-nothing changes: undo actions that run unless the change is committed."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol


class Restorable(Protocol):
    """An object that can return to its present state."""

    def undo_point(self) -> Callable[[], None]:
        """Return a function that restores the state of this moment."""


class Transaction(ExitStack):
    """Undo actions of a change in progress.

    Record an undo action before each step of the change: `save` for an object that can restore its
    own state, `callback` (of `ExitStack`) for a function. A `with` block that ends without `commit`
    runs the actions, the last recorded first.
    """

    def save(self, target: Restorable) -> None:
        """Have a rollback restore the present state of `target`."""
        self.callback(target.undo_point())

    def commit(self) -> None:
        """Keep the change: discard all undo actions."""
        self.pop_all()
