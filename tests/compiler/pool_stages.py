"""Jobs of the worker pool's tests; each one abuses a resource. Loads no torch."""

import os
import signal
import time
from pathlib import Path

from esper.compiler.limits import ProcessLimits, limit_cpu, limit_memory, restrict
from esper.compiler.results import Compiled, to_bytes

DONE = to_bytes(Compiled(b"done", {}))


def warm(limits: ProcessLimits) -> None:
    restrict()
    limit_memory(limits.memory_mb)


def dispatch(data: bytes, cpu_s: float) -> bytes:
    """Run the named job, and return a result if the process survives it."""
    limit_cpu(cpu_s)
    name, _, argument = data.decode().partition(" ")
    ABUSES[name](argument)
    return DONE


def spin(seconds: str) -> None:
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        pass


def write(path: str) -> None:
    Path(path).write_text("gone from here")


def once(path: str) -> None:
    """Hang the first time."""
    if not Path(path).exists():
        Path(path).touch()
        time.sleep(3600)


def wait(path: str) -> None:
    """Say that the job has begun, and run for a second."""
    Path(path).touch()
    time.sleep(1)


def open_files(count: str) -> None:
    descriptors = [os.dup(0) for _ in range(int(count))]
    for descriptor in descriptors:
        os.close(descriptor)


def fail(message: str) -> None:
    raise LookupError(message)


ABUSES = {
    "nothing": lambda _: None,
    "spin": spin,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "allocate": lambda mebibytes: bytes(int(mebibytes) << 20),
    "die": lambda number: os.kill(os.getpid(), signal.Signals[number]),
    "exit": lambda code: os._exit(int(code)),
    "write": write,
    "once": once,
    "wait": wait,
    "open": open_files,
    "fail": fail,
}
