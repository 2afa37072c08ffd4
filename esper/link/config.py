"""The configuration that a sidecar process receives when it starts."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from esper.link.resumption import Resumption
from esper.store import StoreCredentials
from esper.topics.connection import KafkaConnection
from esper.topics.models import TrainingRun
from esper.topics.secret import REVEALED


class LinkConfig(BaseModel):
    """A run, and where its broker, its kernel store and the key of its compile workers are.

    In a `lockstep` run the sidecar offers only kernels of blueprints published before it opens;
    `MISSING` frames carry the number of kernels that the run still waits for. With a `resumption`
    it resumes a run: recorded reports come first, as `RECORDED` frames, then all decisions. With
    `remember` it reads the memory of the run's family and sends it in a `MEMORY` frame before it
    is open. With `auditions` it requests auditions, seeded with `run_seed`, and sends results as
    `AUDITIONED` frames. The configuration is sent over a socket, because it holds passwords.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    kafka: KafkaConnection
    kernel_store: Annotated[str, Field(repr=False)]
    trusted_key_file: str
    source: str
    run: TrainingRun
    lockstep: bool = False
    resumption: Resumption | None = None
    remember: bool = False
    auditions: bool = False
    run_seed: int = 0
    redis_url: Annotated[str | None, Field(repr=False)] = None
    store_credentials: StoreCredentials = StoreCredentials()

    def to_socket(self) -> bytes:
        """Return the configuration with its secrets in clear, for the socket of the sidecar."""
        return self.model_dump_json(context=REVEALED).encode()
