"""Size expressions, such as `C`, `C//4` and `max(8, D//16)`.

    sum     := product (("+" | "-") product)*
    product := factor (("*" | "//") factor)*
    factor  := NUMBER | SYMBOL | "(" sum ")" | ("min" | "max") "(" sum ("," sum)+ ")"

The grammar has no power, no sign and no calls except min and max, and intermediate values are
bounded: the cost of an expression is linear in its at most 64 characters. A symbol is a size of
the site or a named parameter of the blueprint.
"""

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import reduce
from typing import Final

from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.topics.models import SiteKind, SiteSignature

MAX_LENGTH: Final = 64
MAX_DEPTH: Final = 16
MAX_SIZE: Final = 1 << 20
MAX_INTERMEDIATE: Final = 1 << 40

FUNCTIONS: Final = ("min", "max")

_DIMENSIONS: Final[Mapping[SiteKind, tuple[str, ...]]] = {
    SiteKind.VECTOR: ("D",),
    SiteKind.SEQUENCE: ("T", "D"),
    SiteKind.FEATURE_MAP: ("C", "H", "W"),
}
_TOKEN: Final = re.compile(r"\s*([0-9]+|[A-Za-z][A-Za-z0-9_]*|//|[-+*(),])")

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Constant:
    """An integer literal."""

    value: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """The name of a size of the site, or of a parameter."""

    name: str


@dataclass(frozen=True, slots=True)
class Application:
    """An operator or function applied to two or more operands, from left to right."""

    operator: str
    operands: tuple["Expression", ...]


Expression = Constant | Symbol | Application


def symbols_of(*kinds: SiteKind) -> frozenset[str]:
    """Return the symbols that all of these kinds have: sizes of `h` (`C`) and of `x` (`Cx`)."""
    names = frozenset.intersection(*(frozenset(_DIMENSIONS[kind]) for kind in kinds))
    return names | frozenset(f"{name}x" for name in names)


def sizes_of(signature: SiteSignature) -> dict[str, int]:
    """Return the value of each symbol at a site.

    Raises:
        BlueprintRejected: a shape of the signature has another rank than its kind requires.
    """
    names = _DIMENSIONS[signature.kind]
    if not len(names) == len(signature.h) == len(signature.x):
        raise BlueprintRejected(
            RejectionCode.WRONG_KIND,
            f"a {signature.kind} site needs shapes ({', '.join(names)}), "
            f"not x {signature.x} and h {signature.h}",
        )
    of_h = dict(zip(names, signature.h, strict=True))
    of_x = {f"{name}x": size for name, size in zip(names, signature.x, strict=True)}
    return of_h | of_x


def parse(text: str, symbols: Set[str]) -> Expression:
    """Return the syntax tree of an expression.

    Raises:
        BlueprintRejected: the text breaks the grammar, is too long or nested too deeply, or
            names a symbol that is not in `symbols`.
    """
    if len(text) > MAX_LENGTH:
        raise _bad(text[:MAX_LENGTH], f"is longer than {MAX_LENGTH} characters")
    parser = _Parser(text, symbols)
    tree = parser.sum(depth=0)
    if parser.peek() is not None:
        raise _bad(text, f"has unexpected {parser.peek()!r} after its end")
    return tree


def names_in(text: str) -> frozenset[str]:
    """Return every word of an expression, symbols and functions alike."""
    return frozenset(_NAME.findall(text))


def is_constant(expression: Expression) -> bool:
    """Return whether an expression has the same value at every site."""
    match expression:
        case Application(_, operands):
            return all(map(is_constant, operands))
        case _:
            return isinstance(expression, Constant)


def evaluate(expression: Expression, sizes: Mapping[str, int]) -> int:
    """Return the value of an expression where the symbols have the given sizes.

    Raises:
        BlueprintRejected: a division by zero, or an intermediate value out of bounds.
    """
    match expression:
        case Constant(value):
            return _bounded(value)
        case Symbol(name):
            return sizes[name]
        case Application(operator, operands):
            values = [evaluate(operand, sizes) for operand in operands]
            return reduce(_OPERATORS[operator], values)


def size(text: str, sizes: Mapping[str, int]) -> int:
    """Return the value of a size expression, an integer from 1 to 2^20.

    Raises:
        BlueprintRejected: the expression is malformed, or its value is out of range.
    """
    value = evaluate(parse(text, sizes.keys()), sizes)
    if not 1 <= value <= MAX_SIZE:
        raise BlueprintRejected(
            RejectionCode.BAD_SIZE, f"{text!r} is {value} here; sizes are from 1 to {MAX_SIZE}"
        )
    return value


def _bad(text: str, why: str) -> BlueprintRejected:
    return BlueprintRejected(RejectionCode.BAD_EXPRESSION, f"size expression {text!r} {why}")


def _bounded(value: int) -> int:
    if abs(value) > MAX_INTERMEDIATE:
        raise BlueprintRejected(
            RejectionCode.BAD_SIZE,
            f"a size expression has an intermediate value beyond {MAX_INTERMEDIATE}",
        )
    return value


def _divide(left: int, right: int) -> int:
    if right == 0:
        raise BlueprintRejected(RejectionCode.BAD_SIZE, "a size expression divides by zero")
    return left // right


_OPERATORS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "+": lambda left, right: _bounded(left + right),
    "-": lambda left, right: _bounded(left - right),
    "*": lambda left, right: _bounded(left * right),
    "//": _divide,
    "min": min,
    "max": max,
}


class _Parser:
    """Recursive-descent parser of one expression."""

    def __init__(self, text: str, symbols: Set[str]) -> None:
        self._text = text
        self._symbols = symbols
        self._tokens = self._tokenise()
        self._next = 0

    def peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def sum(self, depth: int) -> Expression:
        return self._chain(("+", "-"), self._product, depth)

    def _product(self, depth: int) -> Expression:
        return self._chain(("*", "//"), self._factor, depth)

    def _chain(
        self, operators: tuple[str, ...], operand: Callable[[int], Expression], depth: int
    ) -> Expression:
        tree = operand(depth)
        while (operator := self.peek()) in operators:
            self._next += 1
            tree = Application(str(operator), (tree, operand(depth)))
        return tree

    def _factor(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise _bad(self._text, f"is nested deeper than {MAX_DEPTH} levels")
        token = self._take()
        if token.isdigit():
            return Constant(int(token))
        if token == "(":
            tree = self.sum(depth + 1)
            self._expect(")")
            return tree
        if token in FUNCTIONS:
            return self._call(token, depth)
        if token in self._symbols:
            return Symbol(token)
        known = ", ".join(sorted(self._symbols))
        expected = f"a number or one of {known}" if known else "a number (no common symbols)"
        raise _bad(self._text, f"has {token!r} instead of {expected}")

    def _call(self, function: str, depth: int) -> Expression:
        self._expect("(")
        operands = [self.sum(depth + 1)]
        while self.peek() == ",":
            self._next += 1
            operands.append(self.sum(depth + 1))
        self._expect(")")
        if len(operands) == 1:
            raise _bad(self._text, f"calls {function} with one operand; it takes two or more")
        return Application(function, tuple(operands))

    def _take(self) -> str:
        token = self.peek()
        if token is None:
            raise _bad(self._text, "ends before a number or a symbol")
        self._next += 1
        return token

    def _expect(self, token: str) -> None:
        if (found := self.peek()) != token:
            raise _bad(self._text, f"has {found or 'its end'!r} instead of {token!r}")
        self._next += 1

    def _tokenise(self) -> list[str]:
        tokens, position, text = [], 0, self._text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise _bad(self._text, f"has {text[position]!r}, which the grammar does not allow")
            tokens.append(found[1])
            position = found.end()
        return tokens
