"""The worker pool: the limits of its processes, and the replacement of those that exceed them."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from esper.blueprint import RejectionCode
from esper.compiler.fork_server import ForkServer
from esper.compiler.limits import ProcessLimits
from esper.compiler.results import Compiled, Rejected
from esper.compiler.worker_pool import JobResult, PoolBroken, Stage, WorkerPool
from tests.compiler import pool_stages
from tests.compiler.forked import forked, servers

ABUSE = Stage("abuse", pool_stages.warm, pool_stages.dispatch)
# The wall limit is out of reach, so that on a busy machine only the CPU limit can end a job.
LIMITS = ProcessLimits(wall_s=300.0, cpu_s=1.0, memory_mb=64)
SECRET = "secret-password"


def processes() -> list[psutil.Process]:
    return forked(os.getpid())


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as opened:
        opened.set_inheritable(True)
        patch.setenv("ESPER_REDIS_URL", f"redis://:{SECRET}@host")
        server = ForkServer(())
        pool = WorkerPool(ABUSE, 1, LIMITS, server)
        pool.wait_warm()
        yield pool
        pool.close()
        server.close()
    assert processes() == []


def answer_to(pool: WorkerPool, request: str, spent_ms: float = 0.0) -> JobResult:
    return asyncio.run(pool.call(request.encode(), spent_ms))


def rejection_of(pool: WorkerPool, request: str, spent_ms: float = 0.0) -> Rejected:
    outcome = answer_to(pool, request, spent_ms).outcome
    assert isinstance(outcome, Rejected), outcome
    # After any rejection, the next job finds a process.
    assert isinstance(answer_to(pool, "nothing").outcome, Compiled)
    return outcome


def test_a_job_returns_a_result_with_timings(pool: WorkerPool) -> None:
    answer = answer_to(pool, "sleep 0.05")
    assert isinstance(answer.outcome, Compiled)
    assert answer.call_ms >= 50


def open_sockets(pid: str) -> set[str]:
    """Return the sockets of a process, by their inodes."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.add(str(path.readlink()))
    return {name for name in found if name.startswith("socket:")}


def test_a_process_inherits_neither_the_environment_nor_open_sockets(pool: WorkerPool) -> None:
    (process,) = processes()
    environment = Path(f"/proc/{process.pid}/environ").read_text()
    assert SECRET in os.environ["ESPER_REDIS_URL"]
    assert SECRET not in environment
    assert "ESPER" not in environment
    assert open_sockets("self"), "the socket of the fixture"
    assert not open_sockets("self") & open_sockets(str(process.pid))


def test_a_process_cannot_gain_privileges_or_dump_core(pool: WorkerPool) -> None:
    (process,) = processes()
    assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_job_that_spins_is_killed_by_the_cpu_limit(pool: WorkerPool) -> None:
    rejected = rejection_of(pool, "spin 60")
    assert rejected.code is RejectionCode.TIMEOUT
    assert "CPU time" in rejected.reason


def test_cpu_time_is_counted_from_the_start_of_each_job(pool: WorkerPool) -> None:
    outcomes = [answer_to(pool, "spin 0.5").outcome for _ in range(4)]
    assert all(isinstance(outcome, Compiled) for outcome in outcomes)


def test_a_job_that_hangs_is_killed_by_the_wall_limit(pool: WorkerPool) -> None:
    # All but 0.3 s of the wall time is spent; the next job has the whole of it again.
    rejected = rejection_of(pool, "sleep 3600", spent_ms=(LIMITS.wall_s - 0.3) * 1e3)
    assert rejected.code is RejectionCode.TIMEOUT
    assert "300 s" in rejected.reason
    assert "CPU" not in rejected.reason


def test_a_job_that_exceeds_the_memory_limit_is_rejected_and_its_process_survives(
    pool: WorkerPool,
) -> None:
    before = processes()
    rejected = rejection_of(pool, "allocate 100")
    assert rejected.code is RejectionCode.OUT_OF_MEMORY
    assert "64 MiB" in rejected.reason
    assert processes() == before


@pytest.mark.parametrize("request_", ["die SIGKILL", "die SIGSEGV", "die SIGABRT", "exit 3"])
def test_a_job_whose_process_dies_is_rejected_as_crashed(pool: WorkerPool, request_: str) -> None:
    assert rejection_of(pool, request_).code is RejectionCode.CRASHED


def test_a_signal_to_the_whole_group_does_not_end_a_job(pool: WorkerPool) -> None:
    assert isinstance(answer_to(pool, "die SIGTERM").outcome, Compiled)


def test_a_job_that_raises_is_rejected_as_crashed_with_a_one_line_reason(pool: WorkerPool) -> None:
    rejected = rejection_of(pool, "fail first\nsecond")
    assert rejected.code is RejectionCode.CRASHED
    assert rejected.reason == "LookupError: first"


def test_a_job_cannot_write_files_or_open_many_descriptors(
    pool: WorkerPool, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    assert "OSError" in rejection_of(pool, f"write {path}").reason
    assert not path.exists() or path.stat().st_size == 0
    assert "Too many open files" in rejection_of(pool, "open 100").reason


def test_a_process_that_died_idle_is_replaced_without_losing_a_job(pool: WorkerPool) -> None:
    (process,) = processes()
    process.send_signal(signal.SIGKILL)
    assert isinstance(answer_to(pool, "nothing").outcome, Compiled)


def test_a_job_is_done_again_if_the_fork_server_ended(pool: WorkerPool, tmp_path: Path) -> None:
    """It is not the job's fault, so the kernel is not rejected."""
    (server,) = servers(os.getpid())

    async def scenario() -> JobResult:
        job = asyncio.create_task(pool.call(f"once {tmp_path / 'begun'}".encode()))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        server.kill()
        return await job

    assert isinstance(asyncio.run(scenario()).outcome, Compiled)
    assert servers(os.getpid()) != [server]


def test_a_jump_of_the_clock_ends_no_job(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> JobResult:
        job = asyncio.create_task(pool.call(f"wait {tmp_path / 'begun'}".encode()))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        return await job

    assert isinstance(asyncio.run(scenario()).outcome, Compiled)


def never_warm(limits: ProcessLimits) -> None:
    raise RuntimeError("cannot load")


def test_a_pool_whose_fork_server_cannot_start_raises() -> None:
    others = servers(os.getpid())
    with ForkServer(["no_module_of_this_name"]) as server, pytest.raises(PoolBroken, match="abuse"):
        WorkerPool(ABUSE, 1, LIMITS, server)
    assert servers(os.getpid()) == others


def test_a_pool_that_cannot_start_raises() -> None:
    server = ForkServer(())
    pool = WorkerPool(Stage("abuse", never_warm, pool_stages.dispatch), 1, LIMITS, server)
    with pytest.raises(PoolBroken, match="abuse"):
        pool.wait_warm()
    pool.close()
    server.close()
