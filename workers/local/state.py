"""`stack.json`: the addresses and processes of the local stack, read by every other command."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.workers.local.errors import NotRunningError, StateError
from esper.workers.local.process import ProcessRecord

KAFKA = "kafka"
REDIS = "redis"
POSTGRES = "postgres"
COMPILE = "compile"
BANDIT = "bandit"
AUDITION = "audition"
WORKERS = (COMPILE, BANDIT)
SUPERVISOR = "supervisor"


def worker_names(kind: str, count: int) -> list[str]:
    """Return the names of `count` workers of a kind: `compile`, `compile-2`, `compile-3`."""
    return [kind, *(f"{kind}-{number}" for number in range(2, count + 1))][:count]


def kind_of(name: str) -> str:
    """Return the kind of the process of this name, such as `compile` for `compile-2`."""
    return name.partition("-")[0]


def is_worker(name: str) -> bool:
    """Return whether the process of this name is a worker."""
    return kind_of(name) in (*WORKERS, AUDITION)


class StackState(BaseModel):
    """The content of `stack.json`: addresses, key files and started processes.

    `restarts` counts, by name, how often the supervisor has started a process again.
    """

    model_config = ConfigDict(frozen=True)

    kafka_bootstrap_servers: str
    redis_url: str
    kernel_store: str
    postgres_url: str | None = None
    """Absent if the stack runs without PostgreSQL."""
    signing_key_file: Path
    trusted_key_file: Path
    processes: tuple[ProcessRecord, ...] = ()
    restarts: dict[str, int] = {}

    def process(self, name: str) -> ProcessRecord | None:
        """Return the process started under this name, alive or not; None without one."""
        return next((record for record in self.processes if record.name == name), None)

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of the started workers; compile and bandit worker in any case."""
        started = [record.name for record in self.processes if is_worker(record.name)]
        return tuple(dict.fromkeys((*WORKERS, *started)))

    def require_process(self, name: str) -> ProcessRecord:
        """Return the process started under this name; raise NotRunningError without one."""
        record = self.process(name)
        if record is None:
            known = ", ".join(record.name for record in self.processes) or "nothing"
            raise NotRunningError(
                f"the stack has not started {name!r}; it has started {known}: run `esper up`"
            )
        return record

    def with_process(self, record: ProcessRecord) -> StackState:
        """Return a copy with `record` as the process of its name."""
        others = (other for other in self.processes if other.name != record.name)
        return self.with_processes((*others, record))

    def with_restart(self, name: str) -> StackState:
        """Return a copy that counts one more restart of a process."""
        count = self.restarts.get(name, 0) + 1
        return self.model_copy(update={"restarts": self.restarts | {name: count}})

    def with_processes(self, processes: tuple[ProcessRecord, ...]) -> StackState:
        """Return a copy with exactly these processes."""
        return self.model_copy(update={"processes": processes})


def read_state(file: Path) -> StackState | None:
    """Return the state in `file`, None without a file; raise StateError if it is damaged."""
    if not file.exists():
        return None
    try:
        return StackState.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise StateError(
            f"{file} is damaged ({error.error_count()} errors): end the processes started from "
            f"{file.parent}, then delete the file"
        ) from error


def write_state(file: Path, state: StackState) -> None:
    """Replace `file` atomically: a reader sees the old or the new state."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.unlink(missing_ok=True)
    # The addresses may hold passwords.
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(state.model_dump_json(indent=2) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    unfinished.replace(file)
