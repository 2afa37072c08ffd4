"""The local stack: Kafka, Redis, PostgreSQL, topics, keys and workers in one folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from esper.settings import Settings, kafka_of
from esper.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, create_keys
from esper.topics.connection import Broker
from esper.workers.local import process
from esper.workers.local.errors import NotRunningError
from esper.workers.local.kafka import KafkaService
from esper.workers.local.lock import file_lock
from esper.workers.local.postgres import PostgresService
from esper.workers.local.process import ProcessRecord
from esper.workers.local.redis import RedisService
from esper.workers.local.state import (
    AUDITION,
    BANDIT,
    COMPILE,
    KAFKA,
    POSTGRES,
    REDIS,
    SUPERVISOR,
    StackState,
    is_worker,
    read_state,
    worker_names,
    write_state,
)
from esper.workers.local.status import ServiceStatus, answers, service_statuses
from esper.workers.local.worker import spawn_worker, wait_until_healthy

Progress = Callable[[str], None]

# A service whose environment variable is set is used as it is, not started.
ADDRESS_VARIABLES = {
    REDIS: "ESPER_REDIS_URL",
    POSTGRES: "ESPER_POSTGRES_URL",
    KAFKA: "KAFKA_BOOTSTRAP_SERVERS",
}

MEMORY_TIER = "memory:64MiB"

SUPERVISOR_GRACE_S = 90.0
"""How long the supervisor may take to end: it finishes the start of a process first."""


class LocalStack:
    """The services that Esper needs, on one machine, in the folder `home`.

    Services and key files named in the environment (`KAFKA_BOOTSTRAP_SERVERS`, `ESPER_REDIS_URL`,
    `ESPER_POSTGRES_URL`, `ESPER_KERNEL_STORE`, key files) are used as they are: the stack neither
    starts nor stops them.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._home = home.resolve()
        self._environment = environment
        self._file = self._home / "stack.json"
        self._lock = self._home / "stack.lock"
        self._die_with_parent = False

    def start(
        self,
        progress: Progress,
        *,
        workers: bool = True,
        compile_workers: int = 1,
        bandit_workers: int = 1,
        audition_workers: int = 0,
        postgres: bool = False,
        die_with_parent: bool = False,
        supervise: bool = False,
    ) -> StackState:
        """Start the services that do not run; if one fails, stop those started by this call.

        Without `workers` none is started, whatever their numbers. With `postgres`, kernels are
        stored in PostgreSQL, and Redis is a cache before it. With `die_with_parent` the kernel
        kills the started services when this process ends. With `supervise` one more process starts
        again whichever of them ends.

        Raises:
            LocalServiceError: a service did not start.
            KeyUnusable: a key file cannot be used.
            esper.topics.bus.BusError: the topics could not be created.
        """
        if die_with_parent and not process.CAN_DIE_WITH_PARENT:
            progress("services survive a kill -9 of this process here: `esper down` stops them")
        self._die_with_parent = die_with_parent and process.CAN_DIE_WITH_PARENT
        with file_lock(self._lock):
            before = read_state(self._file)
            try:
                names = (
                    *worker_names(COMPILE, compile_workers),
                    *worker_names(BANDIT, bandit_workers),
                    *worker_names(AUDITION, audition_workers),
                )
                state = self._start_missing(progress, names if workers else (), postgres=postgres)
                return self._ensure(SUPERVISOR, state, progress) if supervise else state
            except BaseException:
                self._stop_all_but(before.processes if before else ())
                raise

    def stop(self) -> None:
        """Stop every process of the stack, workers first; data and keys are kept."""
        state = read_state(self._file)
        if state is not None and (supervisor := state.process(SUPERVISOR)) is not None:
            # Before the lock: it may hold it to start a process, and must not start another one.
            process.stop(supervisor, SUPERVISOR_GRACE_S)
        with file_lock(self._lock):
            self._stop_all_but(())

    def status(self) -> list[ServiceStatus]:
        """Return the status of Kafka, Redis, PostgreSQL if used, and the workers, in this order."""
        state = read_state(self._file)
        if state is None:
            return service_statuses(None)
        return service_statuses(state, self._connection(state), self._redis_ca_file)

    def answers(self, name: str) -> bool:
        """Return whether one started service or worker runs and answers."""
        state = read_state(self._file)
        record = None if state is None else state.process(name)
        if state is None or record is None or not process.is_alive(record):
            return False
        return answers(name, state, self._connection(state), self._redis_ca_file)

    def restart(self, name: str, progress: Progress = lambda _: None) -> ProcessRecord:
        """Restart one service and return when it is ready.

        Raises:
            NotRunningError: the stack has not started the service.
            StartError, PortError: the service did not start.
        """
        with file_lock(self._lock):
            state = self._require_state()
            process.stop(state.require_process(name))
            return _ready(name, self._ensure(name, state, progress))

    def ended(self) -> list[str]:
        """Return the names of the started processes that run no more."""
        state = read_state(self._file)
        records = () if state is None else state.processes
        return [record.name for record in records if not process.is_alive(record)]

    def start_again(self, name: str) -> int | None:
        """Start a process that has ended; return how often it was, None if it runs or was stopped.

        Waits until a service is ready, but not for a worker.

        Raises:
            LocalServiceError: it did not start.
        """
        with file_lock(self._lock):
            state = read_state(self._file)
            record = None if state is None else state.process(name)
            if state is None or record is None or process.is_alive(record):
                return None
            return self._ensure(name, state.with_restart(name), lambda _: None).restarts[name]

    def kill(self, name: str) -> None:
        """Send SIGKILL to one service, like a crash: for fault tests; raise NotRunningError."""
        process.kill(self._require_state().require_process(name))

    def _start_missing(
        self, progress: Progress, workers: Sequence[str], *, postgres: bool
    ) -> StackState:
        state = self._addresses_and_keys(postgres=postgres)
        write_state(self._file, state)
        for name, variable in ADDRESS_VARIABLES.items():
            if name == POSTGRES and state.postgres_url is None:
                if (self._home / POSTGRES / "data").exists():
                    progress("postgres: not started, though it has data: add --with postgres")
            elif self._environment.get(variable):
                progress(f"{name}: using {variable}")
            else:
                state = self._ensure(name, state, progress)
        _create_topics(self._connection(state), progress)
        for name in workers:
            state = self._ensure(name, state, progress)
        for name in workers:
            _ready(name, state)
            progress(f"{name}: ready")
        return state

    def _ensure(self, name: str, state: StackState, progress: Progress) -> StackState:
        """Start the service unless it runs; return the new state, already written for `stop`."""
        earlier = state.process(name)
        if earlier is not None and process.is_alive(earlier):
            progress(f"{name}: already running")
            return state
        if earlier is not None:
            process.stop(earlier)  # It crashed: stop its remaining children.
        progress(f"{name}: starting")
        state = state.with_process(self._start_process(name, state, progress))
        write_state(self._file, state)
        return state

    def _start_process(self, name: str, state: StackState, progress: Progress) -> ProcessRecord:
        """Start a service; on return Kafka, Redis and PostgreSQL are ready, a worker is not."""
        if name == KAFKA:
            return self._kafka().start(progress)
        if name == REDIS:
            return self._redis().start()
        if name == POSTGRES:
            return self._postgres().start()
        if name == SUPERVISOR:
            return self._spawn_supervisor()
        return spawn_worker(name, self._home, state, die_with_parent=self._die_with_parent)

    def _spawn_supervisor(self) -> ProcessRecord:
        module = "esper.workers.local.supervisor"
        command = [sys.executable, "-m", module, str(self._home)]
        return process.spawn(SUPERVISOR, command, log=self._home / "supervisor.log")

    def _addresses_and_keys(self, *, postgres: bool) -> StackState:
        """Return the addresses and key files, and the processes of an earlier start.

        PostgreSQL stays in use once it is, until the stack is stopped.
        """
        broker = self._environment.get(ADDRESS_VARIABLES[KAFKA]) or self._kafka().bootstrap_servers
        redis_url = self._environment.get(ADDRESS_VARIABLES[REDIS]) or self._redis().url
        signing_key, trusted_key = self._key_files()
        earlier = read_state(self._file)
        postgres_url = self._environment.get(ADDRESS_VARIABLES[POSTGRES])
        if not postgres_url and (postgres or (earlier and earlier.postgres_url)):
            postgres_url = self._postgres().url
        tiers = f"{MEMORY_TIER},{redis_url},{postgres_url}" if postgres_url else redis_url
        return StackState(
            kafka_bootstrap_servers=broker,
            redis_url=redis_url,
            kernel_store=self._environment.get("ESPER_KERNEL_STORE") or tiers,
            postgres_url=postgres_url or None,
            signing_key_file=signing_key,
            trusted_key_file=trusted_key,
            processes=earlier.processes if earlier else (),
            restarts=earlier.restarts if earlier else {},
        )

    def _key_files(self) -> tuple[Path, Path]:
        """Return the private and public key files of the environment, or else of `home`."""
        private = self._environment.get("ESPER_SIGNING_KEY_FILE")
        public = self._environment.get("ESPER_TRUSTED_KEY_FILE")
        if private and public:
            return Path(private), Path(public)
        directory = self._home / "keys"
        private_file, public_file = directory / PRIVATE_KEY_FILE, directory / PUBLIC_KEY_FILE
        if not (private_file.exists() and public_file.exists()):
            create_keys(directory)
        return private_file, public_file

    def _connection(self, state: StackState) -> Broker:
        """Return the connection to the broker: as the environment names it, or to the own one."""
        if self._environment.get(ADDRESS_VARIABLES[KAFKA]):
            return kafka_of(self._environment)
        return state.kafka_bootstrap_servers

    @property
    def _redis_ca_file(self) -> str | None:
        return self._environment.get("ESPER_REDIS_CA_FILE")

    def _kafka(self) -> KafkaService:
        return KafkaService(self._home / KAFKA, die_with_parent=self._die_with_parent)

    def _redis(self) -> RedisService:
        return RedisService(self._home / REDIS, die_with_parent=self._die_with_parent)

    def _postgres(self) -> PostgresService:
        return PostgresService(self._home / POSTGRES, die_with_parent=self._die_with_parent)

    def _require_state(self) -> StackState:
        state = read_state(self._file)
        if state is None:
            raise NotRunningError(f"no stack was started in {self._home}: run `esper up`")
        return state

    def _stop_all_but(self, kept: tuple[ProcessRecord, ...]) -> None:
        state = read_state(self._file)
        if state is None:
            return
        ended = [record for record in state.processes if record not in kept]
        # Workers first, in parallel: their shutdown needs the broker and takes a second.
        with ThreadPoolExecutor() as threads:
            list(threads.map(process.stop, [r for r in ended if is_worker(r.name)]))
        for record in ended:
            process.stop(record)
        if kept:
            write_state(self._file, state.with_processes(kept))
        else:
            self._file.unlink()


@contextmanager
def running_stack(
    home: Path, progress: Progress, *, postgres: bool = False, audition_workers: int = 0
) -> Iterator[Settings]:
    """Run the services and workers in the emptied folder `home` during the block.

    They are stopped after the block and, on Linux, killed when this process ends.
    """
    stack = LocalStack(home)
    if home.exists():
        stack.stop()
        shutil.rmtree(home)
    stack.start(
        progress, postgres=postgres, audition_workers=audition_workers, die_with_parent=True
    )
    try:
        yield Settings(ESPER_HOME=home)
    finally:
        stack.stop()


def _ready(name: str, state: StackState) -> ProcessRecord:
    """Return the service's process when it is ready; raise StartError."""
    record = state.require_process(name)
    if is_worker(name):
        wait_until_healthy(record)
    return record


def _create_topics(broker: Broker, progress: Progress) -> None:
    # Imported here: the Kafka client takes a third of a second, which `status` does not need.
    from esper.topics.bus import create_topics

    created = create_topics(broker)
    progress(f"topics: {len(created)} created" if created else "topics: all topics exist")
