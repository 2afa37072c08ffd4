"""Argument types of ops: the values that an author may write, and the literals at a site."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from esper.blueprint.expressions import MAX_SIZE, evaluate, is_constant, parse
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

AuthoredValue = int | float | bool | str | tuple[int | str, ...]
"""An argument's value in a blueprint."""

LiteralValue = int | float | bool | tuple[int, ...]
"""An argument's value in a plan."""

MAX_LIST: Final = 8
"""Length of the longest list that an argument may be."""


@dataclass(frozen=True, slots=True)
class SizeArgument:
    """An integer from `minimum` to `maximum`, or a size expression with such a value."""

    default: int | str | None = None
    minimum: int = 1
    maximum: int = MAX_SIZE

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Raise BlueprintRejected if `value` is valid at no site."""
        if isinstance(value, str):
            if is_constant(parse(value, symbols)):
                self.resolve(value, {})
        elif not self.admits(value):
            raise _ill_typed(value, f"{self.expected} or a size expression")

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> int:
        """Return the integer that `value` has at a site."""
        return _resolved(value, sizes, self)

    def admits(self, value: object) -> bool:
        """Return whether `value` is a literal of this argument."""
        return type(value) is int and self.minimum <= value <= self.maximum

    @property
    def expected(self) -> str:
        """The admitted values, in words for a message."""
        return f"an integer from {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class ChoiceArgument:
    """One of a few integers, or a size expression with such a value."""

    options: tuple[int, ...]
    default: int | str | None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Raise BlueprintRejected if `value` is valid at no site."""
        if isinstance(value, str):
            if is_constant(parse(value, symbols)):
                self.resolve(value, {})
        elif not self.admits(value):
            raise _ill_typed(value, self.expected)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> int:
        """Return the option that `value` has at a site."""
        return _resolved(value, sizes, self)

    def admits(self, value: object) -> bool:
        """Return whether `value` is a literal of this argument."""
        return type(value) is int and value in self.options

    @property
    def expected(self) -> str:
        """The admitted values, in words for a message."""
        return f"one of {', '.join(map(str, self.options))}"


@dataclass(frozen=True, slots=True)
class NumberArgument:
    """A float from `minimum` to less than `exclusive_maximum`."""

    default: float | None = None
    minimum: float = 0.0
    exclusive_maximum: float = 1.0

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Raise BlueprintRejected unless `value` is a number in the range."""
        self.resolve(value, {})

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> float:
        """Return the number; it is the same at every site."""
        number = float(value) if type(value) is int else value
        if not isinstance(number, float) or not self.admits(number):
            raise _ill_typed(value, self.expected)
        return number

    def admits(self, value: object) -> bool:
        """Return whether `value` is a literal of this argument."""
        return type(value) is float and self.minimum <= value < self.exclusive_maximum

    @property
    def expected(self) -> str:
        """The admitted values, in words for a message."""
        return f"a number from {self.minimum:g} to less than {self.exclusive_maximum:g}"


@dataclass(frozen=True, slots=True)
class FlagArgument:
    """True or false."""

    default: bool | None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Raise BlueprintRejected unless `value` is true or false."""
        if not self.admits(value):
            raise _ill_typed(value, self.expected)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> bool:
        """Return the flag; it is the same at every site."""
        self.check(value, frozenset())
        return bool(value)

    def admits(self, value: object) -> bool:
        """Return whether `value` is a literal of this argument."""
        return type(value) is bool

    @property
    def expected(self) -> str:
        """The admitted values, in words for a message."""
        return "true or false"


@dataclass(frozen=True, slots=True)
class SizeListArgument:
    """A required list of `min_length` to `max_length` sizes, from `minimum` to `maximum` each."""

    min_length: int
    max_length: int
    minimum: int = 1
    maximum: int = MAX_SIZE
    default: None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Raise BlueprintRejected if `value` is valid at no site."""
        for member in self._members(value):
            self.member.check(member, symbols)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the integers that `value` has at a site."""
        return tuple(self.member.resolve(member, sizes) for member in self._members(value))

    def admits(self, value: object) -> bool:
        """Return whether `value` is a literal of this argument."""
        return (
            isinstance(value, tuple)
            and self.min_length <= len(value) <= self.max_length
            and all(map(self.member.admits, value))
        )

    @property
    def expected(self) -> str:
        """The admitted values, in words for a message."""
        count = str(self.min_length)
        if self.min_length < self.max_length:
            count += f" to {self.max_length}"
        return f"a list of {count}, each {self.member.expected}"

    @property
    def member(self) -> SizeArgument:
        """The argument type of one list member."""
        return SizeArgument(minimum=self.minimum, maximum=self.maximum)

    def _members(self, value: AuthoredValue) -> tuple[int | str, ...]:
        if not isinstance(value, tuple) or not self.min_length <= len(value) <= self.max_length:
            raise _ill_typed(value, self.expected)
        return value


Argument = SizeArgument | ChoiceArgument | NumberArgument | FlagArgument | SizeListArgument


def _resolved(
    value: AuthoredValue, sizes: Mapping[str, int], argument: SizeArgument | ChoiceArgument
) -> int:
    number = evaluate(parse(value, sizes.keys()), sizes) if isinstance(value, str) else value
    if type(number) is not int or not argument.admits(number):
        raise BlueprintRejected(
            RejectionCode.BAD_SIZE, f"{value!r} is {number} here, not {argument.expected}"
        )
    return number


def _ill_typed(value: AuthoredValue, expected: str) -> BlueprintRejected:
    return BlueprintRejected(RejectionCode.BAD_ARGUMENT, f"{_shown(value)} is not {expected}")


def _shown(value: AuthoredValue) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
