"""The configuration that a sidecar process receives when it starts."""

from pydantic import BaseModel, ConfigDict

from esper.link.resumption import Resumption
from esper.topics.models import TrainingRun


class LinkConfig(BaseModel):
    """A run, and where its broker, its kernel store and the key of its compile workers are.

    In a `lockstep` run the sidecar offers only kernels of blueprints published before it opens;
    `MISSING` frames carry the number of kernels that the run still waits for. With a `resumption`
    it resumes a run: recorded reports come first, as `RECORDED` frames, then all decisions. With
    `remember` it reads the memory of the run's family and sends it in a `MEMORY` frame before it
    is open. The configuration is sent over a socket, because addresses may hold passwords.
    """

    model_config = ConfigDict(frozen=True)

    bootstrap_servers: str
    kernel_store: str
    trusted_key_file: str
    source: str
    run: TrainingRun
    lockstep: bool = False
    resumption: Resumption | None = None
    remember: bool = False
    redis_url: str | None = None
