"""The arguments of ops: what an author may write for each, and the literal it becomes at a site."""

from collections.abc import Mapping
from dataclasses import dataclass

from esper.blueprint.expressions import MAX_SIZE, parse, size
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

Written = int | float | bool | str
"""An argument as it stands in a blueprint."""

Literal = int | bool
"""An argument as it stands in a plan."""


@dataclass(frozen=True, slots=True)
class Size:
    """A whole number from 1 to `most`, or a size expression; without a default it must be given."""

    default: Written | None = None
    most: int = MAX_SIZE

    def check(self, value: Written, symbols: frozenset[str]) -> None:
        """Refuse, whatever the site, what can be no size."""
        if isinstance(value, str):
            parse(value, symbols)
        elif not self.admits(value):
            raise _ill_typed(value, f"a whole number from 1 to {self.most} or a size expression")

    def resolve(self, value: Written, sizes: Mapping[str, int]) -> Literal:
        """Return the number that `value` is at a site."""
        number = size(value, sizes) if isinstance(value, str) else value
        if not self.admits(number):
            raise BlueprintRejected(
                RejectionCode.BAD_SIZE, f"{value!r} is {number} here; it may be at most {self.most}"
            )
        return int(number)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is int and 1 <= value <= self.most


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few whole numbers."""

    options: tuple[int, ...]
    default: Written | None = None

    def check(self, value: Written, symbols: frozenset[str]) -> None:
        """Refuse what is not an option."""
        if not self.admits(value):
            raise _ill_typed(value, f"one of {', '.join(map(str, self.options))}")

    def resolve(self, value: Written, sizes: Mapping[str, int]) -> Literal:
        """Return the option; it is the same at every site."""
        self.check(value, frozenset())
        return int(value)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is int and value in self.options


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    default: Written | None = None

    def check(self, value: Written, symbols: frozenset[str]) -> None:
        """Refuse what is neither true nor false."""
        if not self.admits(value):
            raise _ill_typed(value, "true or false")

    def resolve(self, value: Written, sizes: Mapping[str, int]) -> Literal:
        """Return the flag; it is the same at every site."""
        self.check(value, frozenset())
        return bool(value)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is bool


Argument = Size | Choice | Flag


def _ill_typed(value: Written, expected: str) -> BlueprintRejected:
    return BlueprintRejected(RejectionCode.BAD_ARGUMENT, f"{value!r} is not {expected}")
