"""What a process that handles strangers' blueprints may use, as the kernel of the system sees it.

These are fences against exhaustion and accident. No blueprint brings code of its own, so they
are not walls against native code that runs free: that needs a container of its own.
"""

import ctypes
import math
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MEBIBYTE: Final = 1 << 20
OPEN_FILES: Final = 64

PR_SET_NO_NEW_PRIVS: Final = 38
"""From Linux's <linux/prctl.h>."""

SIGNS_OF_NO_MEMORY: Final = ("allocate memory", "out of memory", "bad_alloc")
"""What torch and its libraries say, in errors that have no type of their own."""


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What may go into one kernel: wall time in all, processor time and memory in each process.

    `memory_mb` is address space in MiB beyond what the process holds at rest, which depends on
    the build of torch: some gigabytes, most of them never touched.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_mb: int = 2048


def restrict() -> None:
    """Forbid what no job needs: files, more descriptors, core dumps, new privileges."""
    # The parent decides when this process ends; a signal to the whole group must not.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    if hasattr(prctl := ctypes.CDLL(None), "prctl"):
        prctl.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def limit_memory(memory_mb: int) -> None:
    """Bound the address space to what is in use now and `memory_mb` more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + memory_mb * MEBIBYTE)


def limit_cpu(cpu_s: float) -> None:
    """Have this process killed (SIGXCPU) once it has used `cpu_s` more, to the second above."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + cpu_s), hard))


def _lower(which: int, limit: int) -> None:
    _, hard = resource.getrlimit(which)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (allowed, allowed))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch says that memory could not be had."""
    return isinstance(error, MemoryError) or any(
        sign in str(error).lower() for sign in SIGNS_OF_NO_MEMORY
    )
