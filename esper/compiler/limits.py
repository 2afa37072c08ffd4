"""Operating-system limits for processes that handle untrusted blueprints.

The limits guard against exhaustion and accidents. A blueprint carries no code, so they do not
contain arbitrary native code; that takes a container.
"""

import ctypes
import math
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1 << 20
OPEN_FILES: Final = 64

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
"""From Linux's <linux/prctl.h>."""

OUT_OF_MEMORY_PHRASES: Final = ("allocate memory", "out of memory", "bad_alloc")
"""Phrases in the messages of torch's out-of-memory errors, which have no own type."""


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """The limits for one kernel: total wall time, and CPU time and memory per process.

    `memory_mb` is address space in MiB beyond that of the idle process, which depends on the
    build of torch: some gigabytes, mostly untouched.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 2048


def restrict() -> None:
    """Forbid writing files, more descriptors, core dumps and new privileges; no job needs them."""
    # Only the parent ends this process; a signal to the whole group must not.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def end_with_parent_process(parent_pid: int) -> None:
    """Have this process killed when the one that forked it ends; end now if it has ended."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_memory(memory_mb: int) -> None:
    """Limit the address space to the current size plus `memory_mb`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_mb * MEBIBYTE)


def limit_cpu(cpu_s: float) -> None:
    """Kill this process (SIGXCPU) after `cpu_s` more CPU time, rounded up to whole seconds."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + cpu_s), hard))


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), where the system has it."""
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(option, value, 0, 0, 0)


def _lower(which: int, limit: int) -> None:
    _, hard = resource.getrlimit(which)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (allowed, allowed))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python or torch means that an allocation failed."""
    return isinstance(error, MemoryError) or any(
        phrase in str(error).lower() for phrase in OUT_OF_MEMORY_PHRASES
    )
