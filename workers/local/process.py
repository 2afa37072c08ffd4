"""Start a process in its own session with a log file, and stop it with its children."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from esper.workers.local import die_with_parent as die_with_parent_script
from esper.workers.local import unprivileged
from esper.workers.local.errors import StartError, StopError

CAN_DIE_WITH_PARENT = sys.platform == "linux"

POLL_S = 0.02
KILL_WAIT_S = 5.0
TAIL_LINES = 3
TAIL_LINE_CHARS = 300
TAIL_BYTES = 16_384


class ProcessRecord(BaseModel):
    """Identifies a process across interpreters, also if its pid is reused later."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started: str
    """When the process was started, as `_start_of` gives it."""
    log: Path
    log_start: int
    """Offset in the log, in bytes, where the output of this process starts."""
    metrics_port: int | None = None
    stop_signal: int = signal.SIGTERM
    """The signal that asks this process to end."""


def spawn(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
    user: tuple[int, int] | None = None,
) -> ProcessRecord:
    """Start `command` in its own session and append its output to `log`; raise StartError.

    With `die_with_parent` (Linux) the kernel kills the process when this process ends in any way.
    With `user`, its uid and gid, root starts the process as this user.
    """
    if die_with_parent:
        command = _tied_to_parent(name, command)
    if user is not None:
        # Outermost: the kernel forgets the tie to the parent when the user changes.
        words = (unprivileged.__file__, *map(str, user))
        command = [sys.executable, "-I", "-S", *words, *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    log_start = log.stat().st_size if log.exists() else 0
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            os.environ if environment is None else environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C at the terminal goes to this process only.
            setsigdef=[signal.SIGPIPE],  # Python ignores SIGPIPE; a child would inherit that.
        )
    except OSError as error:
        raise StartError(f"{name} cannot be run: {error}") from error
    return ProcessRecord(
        name=name, pid=pid, started=_start_of(pid), log=log, log_start=log_start
    )


def is_alive(record: ProcessRecord) -> bool:
    """Return whether the process runs; false for a zombie or another process with its pid."""
    process = _find(record)
    if process is None:
        return False
    if _runs(process):
        return True
    with contextlib.suppress(ChildProcessError):  # It is not a child of this process.
        os.waitpid(record.pid, os.WNOHANG)
    return False


def wait_until_ready(record: ProcessRecord, ready: Callable[[], bool], timeout_s: float) -> None:
    """Poll `ready` until it is true; raise StartError if the process ends or time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not is_alive(record):
            raise _start_error(record, "ended while starting")
        if time.monotonic() > deadline:
            raise _start_error(record, f"is not ready after {timeout_s:g} s")
        time.sleep(POLL_S)


def ready_or_stopped(
    record: ProcessRecord, ready: Callable[[], bool], timeout_s: float
) -> ProcessRecord:
    """Return the process once it is ready; see `wait_until_ready`, whose error also stops it."""
    try:
        wait_until_ready(record, ready, timeout_s)
    except BaseException:
        stop(record)
        raise
    return record


def wait_until_gone(record: ProcessRecord, timeout_s: float) -> None:
    """Wait until the process has ended, at most `timeout_s`."""
    _wait(lambda: not is_alive(record), timeout_s)


def stop(record: ProcessRecord, grace_s: float = 10.0) -> None:
    """Ask the process to end, wait up to `grace_s`, then SIGKILL it and its remaining session.

    Raises:
        StopError: a process survived SIGKILL.
    """
    _signal(record, signal.Signals(record.stop_signal))
    wait_until_gone(record, grace_s)
    left = _session(record)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not _wait(lambda: not any(map(_runs, left)), KILL_WAIT_S):
        pids = ", ".join(str(process.pid) for process in left if _runs(process))
        raise StopError(f"{record.name} did not end after SIGKILL (pids {pids}): see `ps`")
    is_alive(record)  # Reap the zombie.


def kill(record: ProcessRecord) -> None:
    """Send SIGKILL to the process alone, like a crash: for fault tests."""
    _signal(record, signal.SIGKILL)
    wait_until_gone(record, KILL_WAIT_S)


def _tied_to_parent(name: str, command: Sequence[str]) -> list[str]:
    if not CAN_DIE_WITH_PARENT:
        raise StartError(f"{name} cannot be tied to its parent on {sys.platform}: Linux only")
    if threading.current_thread() is not threading.main_thread():
        # prctl follows the thread: the kernel would kill the service when this thread ends.
        raise StartError(f"{name} must be started from the main thread to die with its parent")
    return [sys.executable, "-I", "-S", die_with_parent_script.__file__, str(os.getpid()), *command]


def _find(record: ProcessRecord) -> psutil.Process | None:
    """Return the recorded process, running or a zombie; None if it is gone."""
    try:
        process = psutil.Process(record.pid)
        same = _start_of(record.pid) == record.started
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return None
    return process if same else None


def _start_of(pid: int) -> str:
    """Return when a process was started; equal for no two processes with one pid.

    On Linux, the boot and the clock ticks since then: psutil's time of creation shifts with each
    correction of the wall clock.
    """
    if sys.platform == "linux":
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"
    return repr(psutil.Process(pid).create_time())


def _runs(process: psutil.Process) -> bool:
    """Return whether the process runs. A zombie does not, unless it still has threads.

    Threads of an ending JVM hold ports and files; the zombie is reaped only after they end.
    """
    try:
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return bool(process.is_running() and (not zombie or process.num_threads() > 1))
    except psutil.NoSuchProcess:
        return False


def _wait(done: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _signal(record: ProcessRecord, number: signal.Signals) -> None:
    process = _find(record)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _session(record: ProcessRecord) -> list[psutil.Process]:
    """Return the live processes of the record's session, also if its leader has ended.

    The kernel does not reuse a pid while a session of that number exists: another process with
    the pid means that the recorded session has ended.
    """
    if psutil.pid_exists(record.pid) and _find(record) is None:
        return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # It ended, or access is denied.
            if os.getsid(process.pid) == record.pid:
                members.append(process)
    return members


def _start_error(record: ProcessRecord, what: str) -> StartError:
    return StartError(f"{record.name} {what}: {_tail(record)} (full log: {record.log})")


def _tail(record: ProcessRecord) -> str:
    """Return the last lines of the log as one line, without indented lines (stack frames)."""
    with record.log.open("rb") as handle:
        handle.seek(max(record.log_start, record.log.stat().st_size - TAIL_BYTES))
        text = handle.read().decode(errors="replace")
    lines = [line.strip()[:TAIL_LINE_CHARS] for line in text.splitlines() if line[:1].strip()]
    return " | ".join(lines[-TAIL_LINES:]) or "(empty log)"
