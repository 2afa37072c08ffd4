"""A training run as the planner and the bandit see it: its sites and its policy."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from esper.topics.models.event import Count, Event, Identifier, PositiveCount, SiteName
from esper.topics.models.omit_default import OmitDefault


class SiteKind(StrEnum):
    """The meaning of the dimensions of a site's tensors after the batch dimension."""

    VECTOR = "vector"
    SEQUENCE = "sequence"
    FEATURE_MAP = "feature_map"


Size = Annotated[int, Field(ge=1, le=1 << 20)]
Shape = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]


class SiteSignature(Event):
    """The properties of a site that a kernel is compiled for.

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
        """Kind and shapes, as in `feature_map:4x8x8>8x8x8`; the key of memory across runs."""
        x, h = ("x".join(map(str, shape)) for shape in (self.x, self.h))
        return f"{self.kind}:{x}>{h}"


class RunStatus(StrEnum):
    """Whether kernels are still compiled for a run."""

    OPEN = "open"
    CLOSED = "closed"


class PolicySpec(Event):
    """The name of a bandit policy and its numeric parameters, by name."""

    name: Identifier = "ucb1"
    params: dict[str, float] = {}


class TrainingRun(Event):
    """The sites of a run, announced when it opens, and the end of the run when it closes.

    A run that reports announces itself again from time to time; one that does not expires. Its
    sites of one kind get at most `kernels_per_site` kernels, `kernels_per_publisher` of them from
    blueprints of one publisher. The kernels of a `lockstep` run are compiled first: it waits.
    """

    run_id: Identifier
    status: RunStatus
    sites: Annotated[dict[SiteName, SiteSignature], Field(max_length=10_000)]
    task: Identifier = "custom"
    host_params: Count = 0
    lockstep: OmitDefault[bool] = False
    kernels_per_site: OmitDefault[PositiveCount] = 512
    kernels_per_publisher: OmitDefault[PositiveCount] = 256
