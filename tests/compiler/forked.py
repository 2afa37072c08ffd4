"""The processes of a pool: those that a fork server of a process has forked."""

import psutil


def servers(parent: int) -> list[psutil.Process]:
    """Return the fork servers of a process."""
    return [
        one for one in _alive(psutil.Process(parent)) if "spawn_main" in " ".join(one.cmdline())
    ]


def forked(parent: int) -> list[psutil.Process]:
    """Return what the fork servers of a process have forked."""
    return [child for server in servers(parent) for child in _alive(server)]


def _alive(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children() if child.status() != psutil.STATUS_ZOMBIE]
