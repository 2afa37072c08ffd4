"""The arguments of ops: what an author may write for each, and the literal it becomes at a site."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from esper.blueprint.expressions import MAX_SIZE, evaluate, is_constant, parse
from esper.blueprint.rejection import BlueprintRejected, RejectionCode

AuthoredValue = int | float | bool | str | tuple[int | str, ...]
"""An argument as it stands in a blueprint."""

LiteralValue = int | float | bool | tuple[int, ...]
"""An argument as it stands in a plan."""

MAX_LIST: Final = 8
"""Members of the longest list that an argument may be."""


@dataclass(frozen=True, slots=True)
class SizeArgument:
    """A whole number from `least` to `most`, or a size expression of such a value."""

    default: int | str | None = None
    least: int = 1
    most: int = MAX_SIZE

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Refuse, whatever the site, what can be no such number."""
        if isinstance(value, str):
            if is_constant(parse(value, symbols)):
                self.resolve(value, {})
        elif not self.admits(value):
            raise _ill_typed(value, f"{self.expected} or a size expression")

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> int:
        """Return the number that `value` is at a site."""
        return _resolved(value, sizes, self)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is int and self.least <= value <= self.most

    @property
    def expected(self) -> str:
        """What is admitted, in words for a message."""
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class ChoiceArgument:
    """One of a few whole numbers, or a size expression of such a value."""

    options: tuple[int, ...]
    default: int | str | None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Refuse, whatever the site, what can be no option."""
        if isinstance(value, str):
            if is_constant(parse(value, symbols)):
                self.resolve(value, {})
        elif not self.admits(value):
            raise _ill_typed(value, self.expected)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> int:
        """Return the option that `value` is at a site."""
        return _resolved(value, sizes, self)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is int and value in self.options

    @property
    def expected(self) -> str:
        """What is admitted, in words for a message."""
        return f"one of {', '.join(map(str, self.options))}"


@dataclass(frozen=True, slots=True)
class NumberArgument:
    """A number with a fraction, from `least` to less than `below`."""

    default: float | None = None
    least: float = 0.0
    below: float = 1.0

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Refuse what is no number of the range."""
        self.resolve(value, {})

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> float:
        """Return the number; it is the same at every site."""
        number = float(value) if type(value) is int else value
        if not isinstance(number, float) or not self.admits(number):
            raise _ill_typed(value, self.expected)
        return number

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is float and self.least <= value < self.below

    @property
    def expected(self) -> str:
        """What is admitted, in words for a message."""
        return f"a number from {self.least:g} to less than {self.below:g}"


@dataclass(frozen=True, slots=True)
class FlagArgument:
    """True or false."""

    default: bool | None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Refuse what is neither true nor false."""
        if not self.admits(value):
            raise _ill_typed(value, self.expected)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> bool:
        """Return the flag; it is the same at every site."""
        self.check(value, frozenset())
        return bool(value)

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return type(value) is bool

    @property
    def expected(self) -> str:
        """What is admitted, in words for a message."""
        return "true or false"


@dataclass(frozen=True, slots=True)
class SizeListArgument:
    """A list of `fewest` to `longest` sizes, each from `least` to `most`; it must be given."""

    fewest: int
    longest: int
    least: int = 1
    most: int = MAX_SIZE
    default: None = None

    def check(self, value: AuthoredValue, symbols: Set[str]) -> None:
        """Refuse, whatever the site, what can be no such list."""
        for member in self._members(value):
            self.each.check(member, symbols)

    def resolve(self, value: AuthoredValue, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the numbers that `value` is at a site."""
        return tuple(self.each.resolve(member, sizes) for member in self._members(value))

    def admits(self, value: object) -> bool:
        """Whether `value` is a literal of this argument."""
        return (
            isinstance(value, tuple)
            and self.fewest <= len(value) <= self.longest
            and all(map(self.each.admits, value))
        )

    @property
    def expected(self) -> str:
        """What is admitted, in words for a message."""
        count = f"{self.fewest} to {self.longest}" if self.fewest < self.longest else self.fewest
        return f"a list of {count}, each {self.each.expected}"

    @property
    def each(self) -> SizeArgument:
        """What each member is."""
        return SizeArgument(least=self.least, most=self.most)

    def _members(self, value: AuthoredValue) -> tuple[int | str, ...]:
        if not isinstance(value, tuple) or not self.fewest <= len(value) <= self.longest:
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
