"""The crew: what its processes may use, and what becomes of those that use more."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.blueprint import RejectionCode
from esper.compiler.limits import ProcessLimits
from esper.compiler.results import Compiled, Rejected
from esper.compiler.worker_pool import JobResult, PoolBroken, Stage, WorkerPool
from tests.compiler import pool_stages

ABUSE = Stage("abuse", pool_stages.warm, pool_stages.dispatch)
# A second or two of processor time can take several by the clock where others compute too.
LIMITS = ProcessLimits(wall_s=10.0, cpu_s=1.0, memory_mb=64)
SECRET = "of-nobody's-business"


def processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_REDIS_URL", f"redis://:{SECRET}@host")
        pool = WorkerPool(ABUSE, 1, LIMITS)
        pool.wait_warm()
        yield pool
        pool.close()
    assert processes() == []


def answer_to(pool: WorkerPool, request: str) -> JobResult:
    return asyncio.run(pool.call(request.encode()))


def rejection_of(pool: WorkerPool, request: str) -> Rejected:
    outcome = answer_to(pool, request).outcome
    assert isinstance(outcome, Rejected), outcome
    # Whatever became of it, the next job finds a process.
    assert isinstance(answer_to(pool, "nothing").outcome, Compiled)
    return outcome


def test_a_job_is_done_and_timed(pool: WorkerPool) -> None:
    answer = answer_to(pool, "sleep 0.05")
    assert isinstance(answer.outcome, Compiled)
    assert answer.call_ms >= 50


def test_a_process_is_given_nothing_of_the_environment_and_no_open_file(pool: WorkerPool) -> None:
    (process,) = processes()
    environment = Path(f"/proc/{process.pid}/environ").read_text()
    assert SECRET in os.environ["ESPER_REDIS_URL"]
    assert SECRET not in environment
    assert "ESPER" not in environment
    opened = [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert not [name for name in opened if name.startswith("socket:")]


def test_a_process_may_not_gain_privileges_or_leave_a_core(pool: WorkerPool) -> None:
    (process,) = processes()
    assert "NoNewPrivs:\t1" in Path(f"/proc/{process.pid}/status").read_text()
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_job_that_spins_is_killed_by_its_processor_time(pool: WorkerPool) -> None:
    rejected = rejection_of(pool, "spin 60")
    assert rejected.code is RejectionCode.TIMEOUT
    assert "processor" in rejected.reason


def test_processor_time_is_counted_from_the_start_of_each_job(pool: WorkerPool) -> None:
    outcomes = [answer_to(pool, "spin 0.5").outcome for _ in range(4)]
    assert all(isinstance(outcome, Compiled) for outcome in outcomes)


def test_a_job_that_hangs_is_killed_by_the_clock() -> None:
    pool = WorkerPool(ABUSE, 1, ProcessLimits(wall_s=0.3, cpu_s=60, memory_mb=64))
    pool.wait_warm()
    rejected = rejection_of(pool, "sleep 60")
    pool.close()
    assert rejected.code is RejectionCode.TIMEOUT
    assert "0.3 s" in rejected.reason


def test_a_job_that_takes_too_much_memory_is_rejected_and_its_process_lives_on(
    pool: WorkerPool,
) -> None:
    before = processes()
    rejected = rejection_of(pool, "allocate 100")
    assert rejected.code is RejectionCode.OUT_OF_MEMORY
    assert "64 MiB" in rejected.reason
    assert processes() == before


@pytest.mark.parametrize("request_", ["die SIGKILL", "die SIGSEGV", "die SIGABRT", "exit 3"])
def test_a_job_whose_process_dies_has_crashed(pool: WorkerPool, request_: str) -> None:
    assert rejection_of(pool, request_).code is RejectionCode.CRASHED


def test_a_signal_to_the_whole_group_does_not_end_a_job(pool: WorkerPool) -> None:
    assert isinstance(answer_to(pool, "die SIGTERM").outcome, Compiled)


def test_a_job_that_fails_has_crashed_and_the_reason_is_one_line(pool: WorkerPool) -> None:
    rejected = rejection_of(pool, "fail first\nsecond")
    assert rejected.code is RejectionCode.CRASHED
    assert rejected.reason == "LookupError: first"


def test_a_job_can_neither_write_files_nor_hold_many_open(pool: WorkerPool, tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert "OSError" in rejection_of(pool, f"write {path}").reason
    assert not path.exists() or path.stat().st_size == 0
    assert "Too many open files" in rejection_of(pool, "open 100").reason


def test_a_process_that_died_idle_costs_no_job(pool: WorkerPool) -> None:
    (process,) = processes()
    process.send_signal(signal.SIGKILL)
    assert isinstance(answer_to(pool, "nothing").outcome, Compiled)


def never_warm(limits: ProcessLimits) -> None:
    raise RuntimeError("cannot load")


def test_a_crew_that_cannot_start_says_so() -> None:
    pool = WorkerPool(Stage("abuse", never_warm, pool_stages.dispatch), 1, LIMITS)
    with pytest.raises(PoolBroken, match="abuse"):
        pool.wait_warm()
    pool.close()
