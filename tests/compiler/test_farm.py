"""The farm: real processes that hang, die and are replaced."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.blueprint import RejectionCode, request_for, shipped_named
from esper.compiler import Built, CompileFarm, Rejected
from topics.models import Blueprint, KernelRequested, Node, SiteKind, SiteSignature

QUICK = request_for(
    shipped_named("linear-bottleneck"), SiteSignature(kind=SiteKind.VECTOR, x=(16,), h=(16,))
)


def endless() -> KernelRequested:
    """Within every limit of size, and minutes of convolution."""
    node = Node(id="mix", op="conv2d", inputs=("h",), args={"out": "C", "kernel": 7})
    return request_for(
        Blueprint(blueprint_id="endless", kind=SiteKind.FEATURE_MAP, nodes=(node,), output="mix"),
        SiteSignature(kind=SiteKind.FEATURE_MAP, x=(64, 512, 512), h=(64, 512, 512)),
    )


def compiling_processes(of: int) -> list[psutil.Process]:
    children = psutil.Process(of).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def farm() -> Iterator[CompileFarm]:
    with CompileFarm(processes=1, timeout_s=2.0) as farm:
        yield farm
    assert compiling_processes(of=os.getpid()) == []


def test_a_kernel_is_built_in_another_process(farm: CompileFarm) -> None:
    outcome = asyncio.run(farm.build(QUICK))
    assert isinstance(outcome, Built)


def test_a_job_over_the_time_limit_is_stopped_and_the_farm_lives_on(farm: CompileFarm) -> None:
    async def scenario() -> None:
        outcome = await farm.build(endless())
        assert isinstance(outcome, Rejected)
        assert outcome.code is RejectionCode.TIMEOUT
        assert isinstance(await farm.build(QUICK), Built)

    asyncio.run(scenario())


def test_a_job_whose_process_dies_is_rejected_and_the_farm_lives_on(farm: CompileFarm) -> None:
    async def scenario() -> None:
        job = asyncio.create_task(farm.build(endless()))
        await asyncio.sleep(0.5)
        (process,) = compiling_processes(of=os.getpid())
        process.send_signal(signal.SIGKILL)
        outcome = await job
        assert isinstance(outcome, Rejected)
        assert outcome.code is RejectionCode.CRASHED
        assert isinstance(await farm.build(QUICK), Built)

    asyncio.run(scenario())


@pytest.mark.parametrize("noticed_after_s", [0.0, 0.5])
def test_a_process_that_died_idle_is_replaced_and_costs_no_kernel(
    farm: CompileFarm, noticed_after_s: float
) -> None:
    (process,) = compiling_processes(of=os.getpid())
    process.send_signal(signal.SIGKILL)
    time.sleep(noticed_after_s)
    assert isinstance(asyncio.run(farm.build(QUICK)), Built)


PARENT = """
import asyncio, os
from esper.compiler import CompileFarm
from test_farm import endless

async def hang(farm):
    job = asyncio.create_task(farm.build(endless()))
    await asyncio.sleep(0.5)
    print("busy", flush=True)
    await job

if __name__ == "__main__":
    with CompileFarm(processes=1, timeout_s=600) as farm:
        asyncio.run(hang(farm))
"""


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(Path.cwd()), str(Path(__file__).parent)])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"busy\n"
    (process,) = compiling_processes(of=parent.pid)
    parent.kill()
    parent.wait()
    process.wait(timeout=5)


def test_a_compiling_process_keeps_no_secret_of_its_environment() -> None:
    program = "import os; from esper.compiler import job; job.warm(); print(*sorted(os.environ))"
    kept = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ESPER_REDIS_URL": "redis://:secret@host", "AWS_SECRET_ACCESS_KEY": "s"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(kept) <= {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LC_CTYPE"}
