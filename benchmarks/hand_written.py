"""Blueprints with redundancies that no shipped blueprint has, for the optimiser's passes."""

from typing import Any, Final

from esper.topics.models import Blueprint, Node, SiteKind

NodeRow = tuple[str, str, tuple[str, ...], dict[str, Any]]


def _blueprint(name: str, kind: SiteKind, rows: tuple[NodeRow, ...]) -> Blueprint:
    nodes = tuple(Node(id=id_, op=op, inputs=inputs, args=args) for id_, op, inputs, args in rows)
    return Blueprint(blueprint_id=name, kind=kind, nodes=nodes, output=nodes[-1].id)


def _twice(kind: SiteKind) -> Blueprint:
    return _blueprint(
        f"gate-written-twice-{kind.replace('_', '-')}",
        kind,
        (
            ("gate", "sigmoid", ("h",), {}),
            ("once", "mul", ("h", "gate"), {}),
            ("again", "sigmoid", ("h",), {}),
            ("gated", "mul", ("once", "again"), {}),
        ),
    )


def _halves(kind: SiteKind, op: str, size: str) -> Blueprint:
    return _blueprint(
        f"halves-{op}",
        kind,
        (
            ("both", op, ("h",), {"out": f"2*{size}"}),
            ("content", "chunk", ("both",), {"parts": 2, "index": 0, "dim": 0}),
            ("logit", "chunk", ("both",), {"parts": 2, "index": 1, "dim": 0}),
            ("gate", "sigmoid", ("logit",), {}),
            ("gated", "mul", ("content", "gate"), {}),
            ("project", op, ("gated",), {"out": size}),
        ),
    )


HAND_WRITTEN: Final = (
    *(_twice(kind) for kind in SiteKind),
    _halves(SiteKind.VECTOR, "linear", "D"),
    _halves(SiteKind.FEATURE_MAP, "conv2d", "C"),
)
"""Graphs that compute a value twice, or use several steps for one torch op."""
