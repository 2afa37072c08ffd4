"""Run a command that the kernel kills when its parent dies: `die_with_parent.py PARENT_PID CMD...`.

This script is run by path, needs only the standard library, and execs the command, so the pid stays
the same. (A `preexec_fn` can deadlock a parent that has threads.) Linux only, prctl(2): the signal
is sent when the *thread* that started this process ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by `arguments[1:]`, to be killed when process `arguments[0]` dies."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        return  # The parent died before prctl was called.
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
