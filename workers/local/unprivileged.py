"""Run a command as another user, for servers that refuse root: `unprivileged.py UID GID CMD...`.

This script is run by path, needs only the standard library, and execs the command, so the pid stays
the same. The command keeps one capability of root: to enter folders that only root may enter, in
which its files lie. Linux only, capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def main(arguments: list[str]) -> None:
    """Replace this process by `arguments[2:]`, as user `arguments[0]` of group `arguments[1]`."""
    uid, gid, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setgid(gid)
    _require(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setuid(uid)
    kept = 1 << CAP_DAC_OVERRIDE
    # Two sets of 32 capabilities; the kernel reads both.
    sets = (_Sets * 2)(_Sets(kept, kept, kept), _Sets(0, 0, 0))
    header = _Header(LINUX_CAPABILITY_VERSION_3, 0)
    _require(libc.capset(ctypes.byref(header), sets), "capset")
    raised = libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)
    _require(raised, "prctl(PR_CAP_AMBIENT_RAISE)")
    os.execvp(command[0], command)


def _require(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"{what} failed: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
