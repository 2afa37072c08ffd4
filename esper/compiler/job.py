"""The jobs of the worker processes: bytes of a request or an artifact in, of a result out.

A spawned process imports this module first, so heavy imports are inside the functions; the
`warm_*` functions load them before the first job.
"""

import os
import threading
from collections.abc import Iterator
from multiprocessing import parent_process
from multiprocessing.connection import wait

from esper.compiler.limits import ProcessLimits, limit_cpu, limit_memory, restrict
from esper.topics.models import KernelRequested, SiteKind, SiteSignature

SMALL_SITES = tuple(
    SiteSignature(kind=kind, x=shape, h=shape)
    for kind, shape in (
        (SiteKind.VECTOR, (8,)),
        (SiteKind.SEQUENCE, (4, 8)),
        (SiteKind.FEATURE_MAP, (8, 4, 4)),
    )
)


def warm_compiler(limits: ProcessLimits) -> None:
    """Prepare a process for `compile_request`: compile all shipped blueprints, then restrict it."""
    _configure()
    from esper.compiler.build import compile_kernel

    for request in _samples():
        compile_kernel(request)
    _apply_limits(limits)


def warm_validator(limits: ProcessLimits) -> None:
    """Prepare a process for `validate_artifact`: build all shipped blueprints, then restrict it."""
    _configure()
    from esper.compiler.build import build_kernel

    for request in _samples():
        build_kernel(request)
    _apply_limits(limits)


def ready() -> int:
    """Return this process's id; a warm process answers."""
    return os.getpid()


def compile_request(request: bytes, cpu_s: float) -> bytes:
    """Return the bytes of `Compiled` or `Rejected` for a `KernelRequested`."""
    limit_cpu(cpu_s)
    from esper.compiler.build import compile_kernel
    from esper.compiler.results import to_bytes
    from esper.topics.codec import decode

    return to_bytes(compile_kernel(decode(KernelRequested, request)))


def validate_artifact(artifact: bytes, cpu_s: float) -> bytes:
    """Return the bytes of `Validated` or `Rejected` for an artifact."""
    limit_cpu(cpu_s)
    from esper.compiler.build import validate_kernel
    from esper.compiler.results import to_bytes

    return to_bytes(validate_kernel(artifact))


def _configure() -> None:
    end_with_parent()
    import torch

    torch.set_num_threads(1)


def _apply_limits(limits: ProcessLimits) -> None:
    restrict()
    limit_memory(limits.memory_mb)


def _samples() -> Iterator[KernelRequested]:
    """Yield every shipped blueprint at small sites, so that torch loads its lazy parts."""
    from esper.blueprint import request_for, shipped

    for blueprint in shipped():
        for site in SMALL_SITES:
            if site.kind in blueprint.kinds:
                yield request_for(blueprint, site)


def end_with_parent() -> None:
    """End this process with its parent, even if the parent is killed while a job hangs."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
