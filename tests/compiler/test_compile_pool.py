"""The compile pool: real processes that compile, validate, exceed limits, die and are replaced."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from esper.blueprint import RejectionCode, request_for, shipped_named
from esper.compiler import Built, CompilePool, Rejected
from esper.compiler.limits import ProcessLimits
from esper.topics.codec import sha256_of
from esper.topics.models import Blueprint, KernelRequested, Node, SiteKind, SiteSignature
from tests.compiler.forked import forked

QUICK = request_for(
    shipped_named("linear-bottleneck"), SiteSignature(kind=SiteKind.VECTOR, x=(16,), h=(16,))
)


def on_map(name: str, channels: int, size: int, *nodes: Node) -> KernelRequested:
    shape = (channels, size, size)
    return request_for(
        Blueprint(blueprint_id=name, kind=SiteKind.FEATURE_MAP, nodes=nodes, output=nodes[-1].id),
        SiteSignature(kind=SiteKind.FEATURE_MAP, x=shape, h=shape),
    )


def slow() -> KernelRequested:
    """Return a request within every size limit that takes many seconds of CPU time to validate."""
    mix = Node(id="mix", op="conv2d", inputs=("h",), args={"out": "C", "kernel": 7})
    return on_map("slow", 256, 48, mix)


def hungry() -> KernelRequested:
    """Return a request within every size limit that saves much memory for the backward pass."""
    names = ["h", *(f"n{i}" for i in range(24))]
    wide = [Node(id=b, op="tanh", inputs=(a,)) for a, b in pairwise(names)]
    return on_map("hungry", 1, 1024, *wide)


@pytest.fixture(scope="module")
def compile_pool() -> Iterator[CompilePool]:
    with CompilePool(
        processes=1, limits=ProcessLimits(wall_s=600, cpu_s=1, memory_mb=160)
    ) as compile_pool:
        yield compile_pool
    assert forked(os.getpid()) == []


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def busy_validator(others: list[psutil.Process]) -> psutil.Process:
    """Wait until one new process has used much CPU time; compiling uses little, so it validates."""
    mine = [process for process in forked(os.getpid()) if process not in others]
    before = {process: cpu_s(process) for process in mine}
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for process, start in before.items():
            if cpu_s(process) - start > 0.7:
                return process
        await asyncio.sleep(0.02)
    raise AssertionError("no process began to validate")


def rejection_of(compile_pool: CompilePool, request: KernelRequested) -> Rejected:
    outcome = asyncio.run(compile_pool.build(request))
    assert isinstance(outcome, Rejected), outcome
    assert isinstance(asyncio.run(compile_pool.build(QUICK)), Built)
    return outcome


def test_one_process_compiles_and_another_validates(compile_pool: CompilePool) -> None:
    before = [process.cpu_times().user for process in forked(os.getpid())]
    outcome = asyncio.run(compile_pool.build(QUICK))
    assert isinstance(outcome, Built)
    assert outcome.sha256 == sha256_of(outcome.artifact)
    assert len(before) == 2
    assert {"compile-queue", "validate-queue", "handover"} < outcome.timings_ms.keys()


def test_many_kernels_at_once_are_all_built(compile_pool: CompilePool) -> None:
    async def scenario() -> None:
        outcomes = await asyncio.gather(*(compile_pool.build(QUICK) for _ in range(8)))
        assert len({outcome.sha256 for outcome in outcomes if isinstance(outcome, Built)}) == 1
        assert all(isinstance(outcome, Built) for outcome in outcomes)
        assert max(outcome.timings_ms["compile-queue"] for outcome in outcomes) > 0

    asyncio.run(scenario())


def test_the_processes_inherit_no_settings_and_cannot_write_files(
    compile_pool: CompilePool,
) -> None:
    for process in forked(os.getpid()):
        assert "ESPER" not in Path(f"/proc/{process.pid}/environ").read_text()
        assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert process.num_fds() < process.rlimit(psutil.RLIMIT_NOFILE)[0]


def test_a_kernel_that_takes_too_long_is_stopped_and_the_pool_continues(
    compile_pool: CompilePool,
) -> None:
    assert rejection_of(compile_pool, slow()).code is RejectionCode.TIMEOUT


def test_a_kernel_that_exceeds_memory_is_rejected_and_no_process_dies(
    compile_pool: CompilePool,
) -> None:
    before = forked(os.getpid())
    assert rejection_of(compile_pool, hungry()).code is RejectionCode.OUT_OF_MEMORY
    assert forked(os.getpid()) == before


def test_a_kernel_whose_process_dies_is_rejected_and_only_that_process_is_replaced() -> None:
    async def scenario(compile_pool: CompilePool, others: list[psutil.Process]) -> None:
        processes = [process for process in forked(os.getpid()) if process not in others]
        job = asyncio.create_task(compile_pool.build(slow()))
        validator = await busy_validator(others)
        validator.kill()
        outcome = await job
        assert isinstance(outcome, Rejected)
        assert outcome.code is RejectionCode.CRASHED
        assert isinstance(await compile_pool.build(QUICK), Built)
        (compiler,) = [process for process in processes if process != validator]
        assert compiler.is_running()

    others = forked(os.getpid())
    # No limit is within reach, so that only the kill can end the job.
    with CompilePool(processes=1, limits=ProcessLimits(wall_s=600, cpu_s=600)) as compile_pool:
        asyncio.run(scenario(compile_pool, others))


def test_processes_that_died_idle_are_replaced_without_losing_a_kernel(
    compile_pool: CompilePool,
) -> None:
    for process in forked(os.getpid()):
        process.kill()
    assert isinstance(asyncio.run(compile_pool.build(QUICK)), Built)


PARENT = """
import asyncio, os
from esper.compiler import CompilePool
from tests.compiler.test_compile_pool import slow

async def hang(pool):
    job = asyncio.create_task(pool.build(slow()))
    await asyncio.sleep(0.3)
    print("busy", flush=True)
    await job

if __name__ == "__main__":
    with CompilePool(processes=1, timeout_s=600) as pool:
        asyncio.run(hang(pool))
else:
    raise RuntimeError("a child must not import this program")
"""


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"busy\n"
    processes = forked(parent.pid)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(processes, timeout=120)
    assert len(gone) == 2
    assert alive == []
