"""Hosts of six sites for the known-answer teachers, and the blueprints of the haystack."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from esper.blueprint import BlueprintRejected, member, shipped_named
from esper.tasks import BILINEAR_SKIP, TEACHERS, KnownAnswerTask
from esper.topics.models import Blueprint, Parameter

DEPTH: Final = 4
"""Layers between the first and the last site."""

SITES: Final = ("front", *(f"middle.{layer}" for layer in range(DEPTH)), "back")
INPUTS: Final = 64
HIDDEN: Final = 24
BOTTLENECK: Final = 4
MIDDLE_BOTTLENECK: Final = 2
"""Four units behind a wide layer pass on nearly all that the low-rank teacher asks for."""
CLASSES: Final = 10
UNSQUEEZED: Final = 48

MEMBERS: Final = (4, 8, 12, 16)
"""Values of a family's first parameter."""

FAMILIES: Final = (
    "channel-mixing-mlp",
    "dropout-mlp",
    "film",
    "gated-linear-unit",
    "gated-residual",
    "image-conv",
    "line-conv",
    "line-conv-deep",
    "linear-bottleneck",
    "low-rank-skip",
    "low-rank-skip-wide",
    "swiglu",
    "two-path-mixture",
    "causal-depthwise-conv",
    "gated-causal-conv",
    "linear-attention",
    "self-attention",
    "token-mixing-mlp",
)


class DeepStudent(nn.Module):
    """Six sites: a bottleneck at layer `squeezed`, and no later one that sees past it.

    Layers before the bottleneck have 48 units, those behind it 24.
    """

    def __init__(self, squeezed: int = 0, bottleneck: int = BOTTLENECK) -> None:
        super().__init__()
        widths = [INPUTS, *[UNSQUEEZED] * squeezed, *[HIDDEN] * (DEPTH + 1 - squeezed), CLASSES]
        necks = {squeezed: bottleneck}
        layers = [
            _layer(before, after, necks.get(at))
            for at, (before, after) in enumerate(pairwise(widths))
        ]
        self.front, *middle, self.back = layers
        self.middle = nn.ModuleList(middle)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for samples (B, 64)."""
        x = F.relu(self.front(x))
        for layer in self.middle:
            x = F.relu(layer(x))
        logits: Tensor = self.back(x)
        return logits


class DeepReader(nn.Module):
    """Six sites of layers that read one position; all but the last two are dropped after `front`.

    The logits are of the last position.
    """

    def __init__(self, inputs: int = 16, hidden: int = 16, classes: int = 8) -> None:
        super().__init__()
        self.front = nn.Linear(inputs, hidden, bias=False)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(DEPTH))
        self.back = nn.Linear(hidden, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 8) for sequences (B, T, 16)."""
        x = F.relu(self.front(x))[:, -2:]
        for layer in self.middle:
            x = F.relu(layer(x))
        logits: Tensor = self.back(x[:, -1])
        return logits


def haystack_task(name: str, seed: int) -> KnownAnswerTask:
    """Return a teacher's task on a host of six sites.

    `middle` is the low-rank teacher on a host whose bottleneck is its third site.
    """
    known = TEACHERS["low-rank" if name == "middle" else name](seed)
    host: Callable[[], nn.Module] = DeepReader if name == "retrieval" else DeepStudent
    site = known.site
    if name == "middle":
        host, site = _squeezed_in_the_middle, SITES[2]
    task = replace(known.task, name=f"haystack-{name}", host=host, sites=SITES)
    return replace(known, task=task, site=site)


TASKS: Final = ("conv", "gating", "low-rank", "retrieval", "middle", "null")

RIGHT: Final[Mapping[str, tuple[str, ...]]] = {
    "conv": ("image-conv",),
    "gating": ("bilinear-skip",),
    "low-rank": ("low-rank-skip", "low-rank-skip-wide"),
    "retrieval": ("self-attention", "linear-attention"),
    "middle": ("low-rank-skip", "low-rank-skip-wide"),
    "null": (),
}
"""The families that supply what the host of each task lacks."""


def family_of(blueprint_id: str) -> str:
    """Return the family of `low-rank-skip.rank-8`: `low-rank-skip`."""
    return blueprint_id.partition(".")[0]


def blueprints() -> list[Blueprint]:
    """Return the members of all families, and `identity`."""
    families = [*map(shipped_named, FAMILIES), _bilinear_family()]
    members = [found for family in families for found in _members(family)]
    return [*members, shipped_named("identity")]


def _members(family: Blueprint) -> list[Blueprint]:
    parameter = next(iter(family.parameters))
    found = []
    for value in MEMBERS:
        try:
            found.append(member(family, {parameter: value}))
        except BlueprintRejected:
            # `channel-mixing-mlp` expands by 8 at most.
            continue
    return found


def _bilinear_family() -> Blueprint:
    """Return `bilinear-skip` with a width to choose."""
    nodes = tuple(
        node.model_copy(update={"args": {**node.args, "out": "width"}})
        if node.args.get("out") == 8
        else node
        for node in BILINEAR_SKIP.nodes
    )
    width = Parameter(default=8, least=1, most=512)
    return BILINEAR_SKIP.model_copy(update={"nodes": nodes, "parameters": {"width": width}})


def _layer(before: int, after: int, neck: int | None) -> nn.Module:
    """Return a linear layer, through a bottleneck of `neck` units if one is given."""
    if neck is None:
        return nn.Linear(before, after, bias=False)
    return nn.Sequential(nn.Linear(before, neck, bias=False), nn.Linear(neck, after, bias=False))


def _squeezed_in_the_middle() -> DeepStudent:
    return DeepStudent(squeezed=2, bottleneck=MIDDLE_BOTTLENECK)
