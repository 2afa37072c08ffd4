"""Spawn processes that inherit no environment, main module or open files."""

import io
import os
import sys
from contextlib import suppress
from multiprocessing import popen_spawn_posix, process, reduction, resource_tracker, spawn, util
from multiprocessing.context import SpawnProcess, set_spawning_popen
from pathlib import Path
from typing import Any, Final

KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""The environment variables that a child inherits; none is secret."""

ADDED: Final = {
    # One thread per process; some libraries start threads before torch can limit them.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Kernels rarely share shapes, so a large oneDNN primitive cache only costs memory.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def environment() -> dict[str, str]:
    """Return the complete environment of a child."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | ADDED


class SealedProcess(SpawnProcess):
    """A spawned process with a minimal environment and without the parent's `__main__`."""

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:  # noqa: N802
        return _Popen(process_obj)

    def terminate(self) -> None:
        """Kill the process: it has no cleanup, and a native loop ignores SIGTERM."""
        self.kill()


class _Popen(popen_spawn_posix.Popen):
    """`spawn` with two changes that it has no parameters for.

    The environment is set at `exec`, so that `/proc/PID/environ` holds nothing else. The
    preparation data omits the main module, so that the child does not import a command line.
    """

    _fds: list[int]

    def _launch(self, process_obj: process.BaseProcess) -> None:
        if (tracker := resource_tracker.getfd()) is not None:
            self._fds.append(tracker)
        orders = pickled(self, process_obj)
        # The child detects its parent's end on `read`; the parent detects the child's on `alive`.
        alive, held = os.pipe()
        read, write = os.pipe()
        self.sentinel = alive
        self.finalizer = util.Finalize(self, close_all, (alive, write))
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=read)
            self.pid = os.posix_spawn(
                sys.executable,
                command,
                environment(),
                file_actions=_keep_only({*self._fds, read, held}),
            )
        finally:
            close_all(read, held)
        with open(write, "wb", closefd=False) as pipe:
            pipe.write(orders)


def _keep_only(kept: set[int]) -> list[Any]:
    """Return the file actions with which a child has the standard streams and `kept` alone."""
    # A descriptor duplicated onto itself stays open; Python's others close by themselves, and those
    # of C libraries may not.
    keep: list[Any] = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in sorted(kept)]
    return keep + [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in kept]


def _inheritable() -> list[int]:
    """Return the open descriptors beyond the standard streams that a child would inherit."""
    found = []
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # the descriptor of the listing is closed by now
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
    return found


def pickled(popen: Any, process_obj: process.BaseProcess) -> bytes:
    """Return the child's pickles: the preparation data without a main module, then the process."""
    preparation = spawn.get_preparation_data(process_obj.name)
    kept = {name: value for name, value in preparation.items() if not name.startswith("init_main")}
    buffer = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(kept | {"sys_argv": sys.argv[:1]}, buffer)
        reduction.dump(process_obj, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getvalue()


def close_all(*descriptors: int) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
