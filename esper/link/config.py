"""The configuration that a sidecar process receives when it starts."""

from pydantic import BaseModel, ConfigDict

from esper.link.resumption import Resumption
from esper.topics.models import TrainingRun


class LinkConfig(BaseModel):
    """A run, and where its broker, its kernel store and the key of its compile workers are.

    In a `lockstep` run the process offers the kernels of the blueprints that stand when it opens,
    and no others; it tells with `MISSING` frames for how many of them the run still waits.
    With a `resumption` the sidecar resumes a run: recorded reports come first, as `LOGGED` frames, and
    decisions from the first on.
    Where it is to `remember`, it reads what earlier runs of the run's task found, and tells it in a
    `MEMORY` frame before it is open.
    It travels over a socket, not among arguments or in the environment: addresses hold passwords.
    """

    model_config = ConfigDict(frozen=True)

    bootstrap_servers: str
    store_url: str
    trusted_key_file: str
    source: str
    run: TrainingRun
    lockstep: bool = False
    resumption: Resumption | None = None
    remember: bool = False
    redis_url: str | None = None
