"""The blueprints that all known-answer tasks choose from; a site takes those of its kind."""

from typing import Final

from esper.blueprint import shipped_named
from esper.topics.models import Blueprint, Node, SiteKind

BILINEAR_SKIP: Final = Blueprint(
    blueprint_id="bilinear-skip",
    kind=SiteKind.VECTOR,
    category="gated",
    summary="Products of two linear maps of the site's input, past its layer (Shazeer, GLU "
    "Variants Improve Transformer, 2020: Bilinear).",
    nodes=(
        Node(id="content", op="linear", inputs=("x",), args={"out": 8, "bias": False}),
        Node(id="gate", op="linear", inputs=("x",), args={"out": 8}),
        Node(id="gated", op="mul", inputs=("content", "gate"), args={}),
        Node(id="project", op="linear", inputs=("gated",), args={"out": "D"}),
    ),
    output="project",
)
"""The shipped gated kernels read the layer's output, after the bottleneck; this one its input."""

_SHIPPED: Final = (
    "image-conv",
    "low-rank-skip-wide",
    "gated-linear-unit",
    "dropout-mlp",
    "self-attention",
    "token-mixing-mlp",
    "causal-depthwise-conv",
)

TEACHER_BLUEPRINTS: Final = (*map(shipped_named, _SHIPPED), BILINEAR_SKIP)
