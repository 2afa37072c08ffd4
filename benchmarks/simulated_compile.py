"""A compile worker whose compile processes wait for a stated time instead of computing.

Everything but the two stages is the real worker. The summary of a blueprint says what its compile
process does; each process logs the beginning and the end of its jobs in a journal, from which the
compilations are counted. `python -m benchmarks.simulated_compile` runs the worker.
"""

import os
import signal
import sys
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Final, NamedTuple

from esper.compiler import Compiled, Stage, Stages, Validated, to_bytes
from esper.compiler.job import end_with_parent
from esper.compiler.limits import ProcessLimits
from esper.topics.codec import decode, sha256_of
from esper.topics.models import Characterisation, KernelRequested

JOURNAL: Final = "compilations.log"

KILL_WORKER: Final = "kill the worker"
KILL_PROCESS: Final = "kill the process"

POISON_DELAY_S: Final = 0.1
"""Time before a poison kernel strikes, as one that allocates memory would need."""

MEASURED: Final = Characterisation(
    params=1,
    bytes=64,
    flops=1,
    activation_bytes=1,
    forward_ms=1.0,
    backward_ms=1.0,
    peak_bytes=1,
    batch=1,
    device="cpu",
)


class Line(NamedTuple):
    """One line of the journal: `what` is `start` or `end`."""

    what: str
    kernel_id: str
    worker_pid: int


def read_journal(folder: Path) -> list[Line]:
    """Return the lines of the journal so far."""
    file = folder / JOURNAL
    lines = file.read_text().splitlines() if file.exists() else []
    parts = (line.split() for line in lines)
    return [Line(what, kernel_id, int(pid)) for what, kernel_id, pid in parts]


def warm(limits: ProcessLimits) -> None:
    """End with the worker; there is nothing to load."""
    end_with_parent()


def compile_for_a_while(data: bytes, cpu_s: float) -> bytes:
    """Wait as long as the blueprint's summary says, in seconds, or kill a process."""
    request = decode(KernelRequested, data)
    summary = request.blueprint.summary
    _note("start", request.kernel_id)
    if summary == KILL_WORKER:
        time.sleep(POISON_DELAY_S)
        os.kill(_worker_pid(), signal.SIGKILL)
    if summary == KILL_PROCESS:
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(float(summary))
    _note("end", request.kernel_id)
    return to_bytes(Compiled(request.kernel_id.encode(), {}))


def validate_nothing(data: bytes, cpu_s: float) -> bytes:
    """Accept the bytes."""
    return to_bytes(Validated(sha256_of(data), MEASURED, {}))


STAGES: Final = Stages(
    Stage("compile", warm, compile_for_a_while), Stage("validate", warm, validate_nothing)
)


def _note(what: str, kernel_id: str) -> None:
    # The environment of a compile process has few names; the temporary folder is one of them.
    path = Path(os.environ["TMPDIR"]) / JOURNAL
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, f"{what} {kernel_id} {_worker_pid()}\n".encode())
    os.close(file)


def _worker_pid() -> int:
    # Not the parent in the sense of the system, which is the fork server.
    worker = parent_process()
    assert worker is not None
    assert worker.pid is not None
    return worker.pid


def main() -> int:
    """Run the worker until SIGTERM; settings come from the environment."""
    from benchmarks import simulated_compile
    from esper.settings import Settings
    from esper.workers.compile import run_compile_worker
    from esper.workers.faust import configure_logging

    configure_logging("console")
    # The stages of the imported module: those of `__main__` have no importable name.
    return run_compile_worker(Settings(), simulated_compile.STAGES)


if __name__ == "__main__":
    sys.exit(main())
