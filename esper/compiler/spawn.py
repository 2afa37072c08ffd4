"""Spawned processes that are told nothing: of the environment, of the program, of open files."""

import io
import os
import sys
from multiprocessing import popen_spawn_posix, process, reduction, resource_tracker, spawn, util
from multiprocessing.context import SpawnContext, SpawnProcess, set_spawning_popen
from typing import Any, Final

KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a child is given of its parent's environment: nothing that is a secret."""

ADDED: Final = {
    # One thread a process, also for what starts its threads before torch can be asked not to.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # No two kernels have the same shapes, so what oneDNN keeps for the next is only kept.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def environment() -> dict[str, str]:
    """Return the whole environment of a child."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | ADDED


class SealedProcess(SpawnProcess):
    """A process as `spawn` starts it, with an environment of its own and without `__main__`."""

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:  # noqa: N802
        return _Popen(process_obj)

    def terminate(self) -> None:
        """Kill it: there is nothing to tidy up, and a loop in native code hears nothing else."""
        self.kill()


class SealedContext(SpawnContext):
    """The multiprocessing context whose processes are sealed."""

    Process = SealedProcess


class _Popen(popen_spawn_posix.Popen):
    """`spawn` with two changes, for which it has no parameters.

    The environment is given at `exec`, so that not even `/proc/PID/environ` has more. What the
    child is to prepare does not name the main module: it need not import a whole command line.
    """

    _fds: list[int]

    def _launch(self, process_obj: process.BaseProcess) -> None:
        if (tracker := resource_tracker.getfd()) is not None:
            self._fds.append(tracker)
        orders = _pickled(self, process_obj)
        # The child notices its parent's end on `read`, and its parent the child's on `alive`.
        alive, held = os.pipe()
        read, write = os.pipe()
        self.sentinel = alive
        self.finalizer = util.Finalize(self, _close, (alive, write))
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=read)
            self.pid = os.posix_spawn(
                sys.executable,
                command,
                environment(),
                # Duplicated onto itself, a descriptor stays open in the child; the others close.
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (*self._fds, read, held)],
            )
        finally:
            _close(read, held)
        with open(write, "wb", closefd=False) as pipe:
            pipe.write(orders)


def _pickled(popen: _Popen, process_obj: process.BaseProcess) -> bytes:
    """Return what the child unpickles: how to prepare, then itself."""
    preparation = spawn.get_preparation_data(process_obj.name)
    told = {name: value for name, value in preparation.items() if not name.startswith("init_main")}
    buffer = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(told | {"sys_argv": sys.argv[:1]}, buffer)
        reduction.dump(process_obj, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getvalue()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
