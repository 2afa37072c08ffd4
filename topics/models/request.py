"""A request of a person to a run while it trains."""

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from esper.topics.models.event import Count, Event, Identifier, Sha256, SiteName
from esper.topics.models.omit_default import OmitDefault


class RequestKind(StrEnum):
    """The kinds of requests."""

    CULL = "cull"
    KEEP = "keep"
    PAUSE = "pause"
    RESUME = "resume"


SITE_KINDS = frozenset({RequestKind.CULL, RequestKind.KEEP})


class RunRequest(Event):
    """A manual request to a run; repeated records with the same `request_id` count once.

    `cull` and `keep` name a site; without a slot they address all kernels planted there. `pause`
    and `resume` name neither.
    """

    request_id: Sha256
    run_id: Identifier
    kind: RequestKind
    site: OmitDefault[SiteName | None] = None
    slot: OmitDefault[Count | None] = None

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if (self.site is not None) != (self.kind in SITE_KINDS):
            needs = "needs a" if self.site is None else "takes no"
            raise ValueError(f"a request to {self.kind} {needs} site")
        if self.slot is not None and self.site is None:
            raise ValueError(f"slot {self.slot} has no site; name its site")
        return self

    @property
    def as_command(self) -> str:
        """The request as on the command line: `cull conv2/0`."""
        if self.site is None:
            return self.kind.value
        return f"{self.kind} {self.site}" + ("" if self.slot is None else f"/{self.slot}")
