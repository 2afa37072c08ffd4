"""The farm: real processes that compile and validate, run out of memory, die and are replaced."""

import asyncio
import os
import subprocess
import sys
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
    """Within every limit of size, and seconds of convolution."""
    mix = Node(id="mix", op="conv2d", inputs=("h",), args={"out": "C", "kernel": 7})
    return on_map("slow", 256, 48, mix)


def hungry() -> KernelRequested:
    """Within every limit of size, and much to keep for the way back."""
    names = ["h", *(f"n{i}" for i in range(24))]
    wide = [Node(id=b, op="tanh", inputs=(a,)) for a, b in pairwise(names)]
    return on_map("hungry", 1, 1024, *wide)


def farm_processes(of: int) -> list[psutil.Process]:
    children = psutil.Process(of).children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def compile_pool() -> Iterator[CompilePool]:
    with CompilePool(
        processes=1, limits=ProcessLimits(wall_s=10, cpu_s=1, memory_mb=160)
    ) as compile_pool:
        yield compile_pool
    assert farm_processes(of=os.getpid()) == []


def rejection_of(compile_pool: CompilePool, request: KernelRequested) -> Rejected:
    outcome = asyncio.run(compile_pool.build(request))
    assert isinstance(outcome, Rejected), outcome
    assert isinstance(asyncio.run(compile_pool.build(QUICK)), Built)
    return outcome


def test_one_process_makes_the_bytes_and_another_runs_them(compile_pool: CompilePool) -> None:
    before = [process.cpu_times().user for process in farm_processes(of=os.getpid())]
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


def test_the_processes_load_neither_the_program_nor_its_environment(
    compile_pool: CompilePool,
) -> None:
    for process in farm_processes(of=os.getpid()):
        assert "ESPER" not in Path(f"/proc/{process.pid}/environ").read_text()
        assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert process.num_fds() < process.rlimit(psutil.RLIMIT_NOFILE)[0]


def test_a_kernel_that_takes_too_long_is_stopped_and_the_farm_lives_on(
    compile_pool: CompilePool,
) -> None:
    assert rejection_of(compile_pool, slow()).code is RejectionCode.TIMEOUT


def test_a_kernel_that_takes_too_much_memory_is_rejected_and_no_process_dies(
    compile_pool: CompilePool,
) -> None:
    before = farm_processes(of=os.getpid())
    assert rejection_of(compile_pool, hungry()).code is RejectionCode.OUT_OF_MEMORY
    assert farm_processes(of=os.getpid()) == before


def test_a_kernel_whose_process_dies_is_rejected_and_only_that_process_replaced(
    compile_pool: CompilePool,
) -> None:
    async def scenario() -> None:
        job = asyncio.create_task(compile_pool.build(slow()))
        await asyncio.sleep(0.5)
        compiler, validator = sorted(
            farm_processes(of=os.getpid()), key=lambda process: process.status() == "running"
        )
        validator.kill()
        outcome = await job
        assert isinstance(outcome, Rejected)
        assert outcome.code is RejectionCode.CRASHED
        assert isinstance(await compile_pool.build(QUICK), Built)
        assert compiler.is_running()

    asyncio.run(scenario())


def test_processes_that_died_idle_are_replaced_and_cost_no_kernel(
    compile_pool: CompilePool,
) -> None:
    for process in farm_processes(of=os.getpid()):
        process.kill()
    assert isinstance(asyncio.run(compile_pool.build(QUICK)), Built)


PARENT = """
import asyncio, os
from esper.compiler import CompilePool
from tests.compiler.test_compile_pool import slow

async def hang(farm):
    job = asyncio.create_task(farm.build(slow()))
    await asyncio.sleep(0.3)
    print("busy", flush=True)
    await job

if __name__ == "__main__":
    with CompilePool(processes=1, timeout_s=600) as farm:
        asyncio.run(hang(farm))
else:
    raise RuntimeError("a child has no use for this program")
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
    processes = farm_processes(of=parent.pid)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(processes, timeout=5)
    assert len(gone) == 2
    assert alive == []
