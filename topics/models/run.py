"""A training run as the planner and the decisions see it: its sites and how it is to be steered."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from esper.topics.models.event import Count, Event, Identifier, SiteName


class SiteKind(StrEnum):
    """What the last dimensions of a site's tensors mean."""

    VECTOR = "vector"
    SEQUENCE = "sequence"
    FEATURE_MAP = "feature_map"


Size = Annotated[int, Field(ge=1, le=1 << 20)]
Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]


class SiteSignature(Event):
    """All that a kernel must know of a site to fit it.

    `x` and `h` are the shapes of the site's input and output without the batch dimension:
    (D,) for a vector, (T, D) for a sequence, (C, H, W) for a feature map.
    """

    kind: SiteKind
    x: Shape
    h: Shape
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def text(self) -> str:
        """Kind and shapes, as `feature_map:4x8x8>8x8x8`: what runs have in common at such sites."""
        x, h = ("x".join(map(str, shape)) for shape in (self.x, self.h))
        return f"{self.kind}:{x}>{h}"


class RunStatus(StrEnum):
    """Whether kernels are still wanted for a run."""

    OPEN = "open"
    CLOSED = "closed"


class PolicySpec(Event):
    """The bandit policy of a run and its numeric parameters, by name."""

    name: Identifier = "ucb1"
    params: dict[str, float] = {}


class TrainingRun(Event):
    """A run announces its sites when it opens, and that nothing more is wanted when it closes."""

    run_id: Identifier
    status: RunStatus
    sites: Annotated[dict[SiteName, SiteSignature], Field(max_length=10_000)]
    task: Identifier = "custom"
    host_params: Count = 0
