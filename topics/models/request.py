"""What a person asks of a run while it trains."""

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from esper.topics.models.event import Count, Event, Identifier, Sha256, SiteName
from esper.topics.models.omit_default import OmitDefault


class RequestKind(StrEnum):
    """What is asked for."""

    CULL = "cull"
    KEEP = "keep"
    PAUSE = "pause"
    RESUME = "resume"


OF_SEEDS = frozenset({RequestKind.CULL, RequestKind.KEEP})


class RunRequest(Event):
    """Something asked of a run by hand; its id makes it count once, however often it is heard.

    To cull and to keep name a site; without a slot, all that is planted there is meant.
    """

    request_id: Sha256
    run_id: Identifier
    kind: RequestKind
    site: OmitDefault[SiteName | None] = None
    slot: OmitDefault[Count | None] = None

    @model_validator(mode="after")
    def _name_what_is_meant(self) -> Self:
        if (self.site is not None) != (self.kind in OF_SEEDS):
            needs = "needs a" if self.site is None else "takes no"
            raise ValueError(f"a request to {self.kind} {needs} site")
        if self.slot is not None and self.site is None:
            raise ValueError("a slot is one of a site; name that too")
        return self

    @property
    def words(self) -> str:
        """What is asked for, as on the command line: `cull conv2/0`."""
        if self.site is None:
            return self.kind.value
        return f"{self.kind} {self.site}" + ("" if self.slot is None else f"/{self.slot}")
