"""What a compiling process runs: bytes of a request in, bytes of an outcome out.

A spawned process imports this module before it can do anything else, so nothing heavy is
imported here; `warm` loads it, before the first job.
"""

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Final

KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""All that a compiling process keeps of its parent's environment: nothing that is a secret."""


def warm() -> None:
    """Prepare this process: drop secrets, tie it to its parent, and build a kernel of each kind."""
    _forget_environment()
    _end_with_parent()
    import torch

    torch.set_num_threads(1)
    for request in _samples():
        build(request)


def ready() -> int:
    """Return this process's id; that it answers means that it is warm."""
    return os.getpid()


def build(request: bytes) -> bytes:
    """Return the bytes of the outcome (`esper.compiler.outcome`) of a `KernelRequested`."""
    from esper.compiler.build import build as build_kernel
    from esper.compiler.outcome import to_bytes
    from topics.codec import decode
    from topics.models import KernelRequested

    return to_bytes(build_kernel(decode(KernelRequested, request)))


def _samples() -> tuple[bytes, ...]:
    """Return a request for every shipped blueprint at a small site: what torch loads lazily."""
    from esper.blueprint.catalog import shipped
    from esper.blueprint.identity import request_for
    from topics.codec import encode
    from topics.models import SiteKind, SiteSignature

    shapes = {SiteKind.VECTOR: (8,), SiteKind.SEQUENCE: (4, 8), SiteKind.FEATURE_MAP: (8, 4, 4)}
    sites = {kind: SiteSignature(kind=kind, x=shape, h=shape) for kind, shape in shapes.items()}
    return tuple(encode(request_for(blueprint, sites[blueprint.kind])) for blueprint in shipped())


def _forget_environment() -> None:
    for name in set(os.environ).difference(KEPT_ENVIRONMENT):
        del os.environ[name]


def _end_with_parent() -> None:
    """End this process when its parent does, even one that was killed during a job that hangs."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
