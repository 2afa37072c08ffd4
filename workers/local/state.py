"""What the local stack runs and where, as the file that every other command reads."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.workers.local.errors import NotRunningError, StateError
from esper.workers.local.process import ProcessRecord

KAFKA = "kafka"
REDIS = "redis"
WORKERS = ("compile", "bandit")


class StackState(BaseModel):
    """The content of `stack.json`: addresses, key files, and the processes that were started."""

    model_config = ConfigDict(frozen=True)

    kafka_bootstrap_servers: str
    redis_url: str
    store_url: str
    signing_key_file: Path
    trusted_key_file: Path
    processes: tuple[ProcessRecord, ...] = ()

    def process(self, name: str) -> ProcessRecord | None:
        """The process started under that name, alive or not."""
        return next((record for record in self.processes if record.name == name), None)

    def started(self, name: str) -> ProcessRecord:
        """As `process`, for one that must be there. Raises NotRunningError."""
        record = self.process(name)
        if record is None:
            known = ", ".join(record.name for record in self.processes) or "nothing"
            raise NotRunningError(
                f"the stack has not started {name!r}, but {known}: run `esper up`"
            )
        return record

    def with_process(self, record: ProcessRecord) -> StackState:
        """This state, with `record` as the process of its name."""
        others = (other for other in self.processes if other.name != record.name)
        return self.with_processes((*others, record))

    def with_processes(self, processes: tuple[ProcessRecord, ...]) -> StackState:
        """This state, with exactly these processes."""
        return self.model_copy(update={"processes": processes})


def read_state(file: Path) -> StackState | None:
    """The state in `file`, or None when there is none. Raises StateError when it is damaged."""
    if not file.exists():
        return None
    try:
        return StackState.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise StateError(
            f"{file} is damaged ({error.error_count()} errors): end by hand what still runs from "
            f"{file.parent}, then delete it"
        ) from error


def write_state(file: Path, state: StackState) -> None:
    """Replace `file` in one step: a reader finds the old state or the new, never a half."""
    unfinished = file.with_name(f"{file.name}.tmp")
    with unfinished.open("w") as handle:
        handle.write(state.model_dump_json(indent=2) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    unfinished.replace(file)
