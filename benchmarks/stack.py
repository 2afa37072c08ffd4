"""A local stack for one benchmark: Kafka, Redis and workers in a temporary home."""

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.result import BenchmarkError
from esper.settings import STACK_FILE, Settings
from esper.workers.local import LocalStack, StackState, process, read_state

NO_ADDRESSES: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack and the settings to use it."""

    local: LocalStack
    settings: Settings

    def stop_worker(self, name: str) -> None:
        """Stop one worker cleanly; its records stay on their topics."""
        state = read_state(self.settings.home / STACK_FILE)
        if state is None:
            raise BenchmarkError(f"no stack runs in {self.settings.home}")
        process.stop(state.require_process(name))

    def start_worker(self, name: str) -> None:
        """Start a stopped worker; return when it is ready."""
        self.local.restart(name)


@contextmanager
def local_stack(audition_workers: int = 0) -> Iterator[Stack]:
    """Run a stack within the block, whatever addresses the environment has."""
    with tempfile.TemporaryDirectory(prefix="esper-benchmark-") as folder:
        home = Path(folder)
        local = LocalStack(home, NO_ADDRESSES)
        started = local.start(
            lambda _: None, audition_workers=audition_workers, die_with_parent=True
        )
        try:
            yield Stack(local, settings_of(home, started))
        finally:
            local.stop()


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Restrict this thread, and processes that it starts, to `cores` within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def settings_of(home: Path, started: StackState) -> Settings:
    """Return the settings that reach a stack started in `home`."""
    return Settings(
        ESPER_HOME=home,
        KAFKA_BOOTSTRAP_SERVERS=started.kafka_bootstrap_servers,
        ESPER_REDIS_URL=started.redis_url,
        ESPER_KERNEL_STORE=started.kernel_store,
        ESPER_TRUSTED_KEY_FILE=started.trusted_key_file,
    )
