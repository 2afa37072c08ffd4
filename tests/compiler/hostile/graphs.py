"""Well-formed JSON that is no good graph: sizes, arguments, references and families gone wrong."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from esper.blueprint import OPS, OpSpec
from esper.blueprint.arguments import ChoiceArgument, FlagArgument, SizeArgument, SizeListArgument
from tests.compiler.hostile.corpus import SITES, Hostile, letter, letter_of, node

MAX_INPUTS: Final = 8
VALUES: Final = {
    SizeArgument: (
        10**12,
        -(10**12),
        -(1 << 63),
        (1 << 63) - 1,
        1 << 63,
        0.5,
        1e308,
        True,
        [1],
        [],
    ),
    ChoiceArgument: (0, -1, 8, 10**12, 3.0, True, [3]),
    FlagArgument: (0, 1, -1, 1.0, "true", "C", []),
    SizeListArgument: (8, "C", True, 0.5, [], [-1], [10**12]),
}
"""What no argument of a type admits."""

EXPRESSIONS: Final = (
    *("C**C**C", "C**2", "C^2", "C<<4", "C>>1", "C/2", "C%3", "C@C", "C|C", "C&C", "~C", "-C"),
    *("+C", "!C", "C!", "C?", "C.real", "C[0]", "C()", "C(1)", "max()", "max(C)", "min(C,)"),
    *("max(,C)", "max(C C)", "max", "(C", "C)", "()", "", " ", "C C", "C 2", "2 C", "2C", "C//"),
    *("//C", "C+", "*C", "C+-1", "C--C", "C///2", "0x10", "1e3", "1.5", "1_000", "C;C", "C#"),
    *("C,C", "C\x00", "C\\", "'C'", "{C}", "$C", "C=8", "C==C", "lambda:C", "__import__", "c"),
    *("exec(C)", "eval('C')", "abs(C)", "pow(C,C)", "sum(C,C)", "C if C else C", "C and C", "h"),
    *("D", "T", "Cy", "CC", "x", "rank", "\u2167", "\u0663", "\uff23"),
    *("\u0421", "\u00b2", "C\u200b"),
    "(" * 31 + "C" + ")" * 31,
    "max(C," * 8 + "C" + ")" * 8 + "C",
    "(" * 64,
    "min(" * 16,
)
"""What is not of the grammar of sizes at a feature map, for one reason or another."""

SIZES: Final = (
    *("0", "C-C", "C-9", "C//9", "0*C", "C//0", "C//(C-C)", "C*C//(H-W)", "min(C,0)", "1-C*C"),
    *("1048577", "C*131073", "9" * 13, "9" * 64, "C*C*C*C*C*C*C*C*C*C*C*C*C*C", "H*W*C*H*W*C*H*W"),
    "99999999*99999999*99999999",
    "1099511627776*2-1099511627776",
    "max(C,1048577)",
)
"""Expressions that are no size at the site `map`: zero, negative, beyond, or divided by zero."""

INJECTING: Final = (
    *("self", "cls", "args", "kwargs", "class", "import", "exec", "eval", "lambda", "func"),
    *("input", "weight", "parameters", "kernel_id", "device", "dtype", "inplace"),
    *("requires_grad", "generator", "memory_format", "training", "module", "op", "id"),
    *("inputs", "torch", "nn", "out_"),
)
"""Names that are well formed and mean something in Python or torch, but to no op here."""


def family() -> Iterator[Hostile]:
    """Yield every graph that must be refused before anything of it runs."""
    for number, text in enumerate(EXPRESSIONS):
        value = letter_of(node("mix", "conv2d", "h", out=text))
        yield Hostile(f"expression/{number}", value, "bad-expression")
    for number, text in enumerate(SIZES):
        value = letter_of(node("mix", "conv2d", "h", out=text))
        yield Hostile(f"size/{number}", value, "bad-size")
    for name in INJECTING:
        mix = {"id": "mix", "op": "conv2d", "inputs": ["h"], "args": {"out": "C", name: 1}}
        yield Hostile(f"injection/{name}", letter_of(mix), "unknown-argument")
    yield from _parameters()
    yield from _references()
    for spec in OPS.values():
        yield from _of_op(spec)


def _of_op(spec: OpSpec) -> Iterator[Hostile]:
    """Yield what is wrong with one op for any shapes: its inputs, names and types of arguments."""
    if spec.internal:
        yield Hostile(f"op/{spec.name}", letter_of(node("a", spec.name, "h")), "unknown-op")
        return
    for count in {spec.min_inputs - 1, spec.max_inputs + 1, MAX_INPUTS} - set(
        range(spec.min_inputs, spec.max_inputs + 1)
    ):
        if 1 <= count <= MAX_INPUTS:
            value = letter_of(node("a", spec.name, *["h"] * count, **_sound(spec)))
            yield Hostile(f"arity/{spec.name}-{count}", value, "wrong-arity")
    inputs = ["h"] * spec.min_inputs
    value = letter_of(node("a", spec.name, *inputs, **_sound(spec), inplace=True))
    yield Hostile(f"argument/{spec.name}-inplace", value, "unknown-argument")
    for name, argument in spec.arguments.items():
        if argument.default is None:
            without = {other: held for other, held in _sound(spec).items() if other != name}
            value = letter_of(node("a", spec.name, *inputs, **without))
            yield Hostile(f"argument/{spec.name}-no-{name}", value, "missing-argument")
        for number, bad in enumerate(VALUES.get(type(argument), ("0.1", -0.1, 1e308, True, [1]))):
            changed = _sound(spec) | {name: bad}
            value = letter_of(node("a", spec.name, *inputs, **changed))
            yield Hostile(f"argument/{spec.name}-{name}-{number}", value, "bad-argument")


def _sound(spec: OpSpec) -> dict[str, Any]:
    """Return well-typed values for the arguments that must be given."""
    needed = {name: each for name, each in spec.arguments.items() if each.default is None}
    return {
        name: [1] * argument.min_length if isinstance(argument, SizeListArgument) else 1
        for name, argument in needed.items()
    }


def _parameters() -> Iterator[Hostile]:
    """Yield families whose parameters, or whose values for them, are wrong."""
    mix = node("mix", "conv2d", "h", out="rank", bias=False)

    def declared(default: Any, least: int = 1, most: int = 64, **changes: Any) -> bytes:
        row = {"default": default, "least": least, "most": most}
        return letter_of(mix, **{"parameters": {"rank": row}} | changes)

    cases = {
        "default-below": (declared(0), "bad-parameter"),
        "default-above": (declared(65), "bad-parameter"),
        "default-negative": (declared(-1, least=-2), "bad-parameter"),
        "default-10^12": (declared(10**12), "bad-parameter"),
        "default-constant-above": (declared("64+1"), "bad-parameter"),
        "default-constant-overflow": (declared("9" * 64), "bad-size"),
        "default-power": (declared("C**C"), "bad-expression"),
        "default-itself": (declared("rank"), "bad-expression"),
        "default-of-another-kind": (declared("D"), "bad-expression"),
        "default-nested": (declared("(" * 31 + "C" + ")" * 31), "bad-expression"),
        "default-empty": (declared(""), "bad-expression"),
        "default-division-by-zero": (declared("C//(C-C)"), "bad-size"),
        "default-explodes": (declared("C*C*C*C*C*C*C*C*C*C*C*C*C*C"), "bad-size"),
        "least-zero": (declared(1, least=0), "bad-parameter"),
        "least-above-most": (declared(8, least=9, most=8), "bad-parameter"),
        "most-beyond": (declared(1, most=(1 << 20) + 1), "bad-parameter"),
        "most-10^18": (declared(1, most=10**18), "bad-parameter"),
        "value-below": (declared(8, values={"rank": 0}), "bad-parameter"),
        "value-negative": (declared(8, values={"rank": -8}), "bad-parameter"),
        "value-above": (declared(8, values={"rank": 65}), "bad-parameter"),
        "value-10^12": (declared(8, values={"rank": 10**12}), "bad-parameter"),
        "value-of-no-parameter": (declared(8, values={"width": 8}), "bad-parameter"),
        "value-without-parameters": (letter(values={"rank": 8}), "bad-parameter"),
        "value-that-does-not-fit": (declared("C", values={"rank": 9}), "output-shape"),
    }
    for name, (value, expected) in cases.items():
        yield Hostile(f"parameter/{name}", value, expected)
    row = {"default": 1 << 20, "least": 1, "most": 1 << 20}
    for function in ("min", "max"):
        value = letter(parameters={function: row})
        yield Hostile(f"parameter/called-{function}", value, "bad-parameter")
    powers = node("mix", "conv2d", "h", out="*".join(["rank"] * 12))
    value = letter_of(powers, parameters={"rank": row})
    yield Hostile("parameter/powers", value, "bad-size")


def _references() -> Iterator[Hostile]:
    """Yield graphs whose nodes are called, read or ordered as they must not be."""

    def chain(length: int, last: str, reads: str) -> list[dict[str, Any]]:
        names = ["h", *(f"n{number}" for number in range(length))]
        nodes = [node(name, "relu", before) for before, name in pairwise(names)]
        return [*nodes, node(last, "relu", reads)]

    for length in (0, 1, 2, 126, 127):
        before = f"n{length - 1}" if length else "h"
        cases = {
            "dangling": (chain(length, "end", "ghost"), "dangling-reference"),
            "itself": (chain(length, "end", "end"), "cycle"),
            "called-x": (chain(length, "x", before), "reserved-name"),
            "called-h": (chain(length, "h", before), "reserved-name"),
        }
        if length:
            cases |= {
                "twice": (chain(length, "n0", before), "duplicate-node"),
                "dead": (chain(length, "end", "h"), "dead-node"),
                "loop": ([node("n0", "relu", "end"), *chain(length, "end", before)[1:]], "cycle"),
            }
        for name, (nodes, expected) in cases.items():
            yield Hostile(f"reference/{name}-{length}", letter_of(*nodes), expected)
    for name in ("ghost", "x", "h", "birth_scale"):
        value = letter_of(*chain(1, "end", "n0"), output=name)
        yield Hostile(f"reference/output-{name}", value, "output-missing")
    value = letter_of(*chain(3, "end", "n2"), output="n1")
    yield Hostile("reference/nodes-after-the-output", value, "dead-node")
    for kind, site in (("vector", "map"), ("sequence", "vector"), ("feature_map", "sequence")):
        value = letter_of(node("a", "scale", "h"), kind=kind)
        yield Hostile(f"reference/{kind}-at-{site}", value, "wrong-kind", site=SITES[site])
