"""A kernel is compiled once across workers, restarts and rebalances: real workers, counted jobs."""

import pytest

from benchmarks.compile_fleet import SITE, Fleet, blueprint, requests
from benchmarks.simulated_compile import KILL_PROCESS, KILL_WORKER
from esper.blueprint import request_for
from esper.topics.models import CompileStatus
from esper.workers.compile.answers import MAX_ATTEMPTS
from esper.workers.local import ProcessRecord
from esper.workers.local.process import is_alive
from tests.waiting import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]


def test_a_kernel_is_compiled_once_by_joining_and_restarted_workers(workers: Fleet) -> None:
    wanted = requests(16, "0.4", "join")
    (first,) = workers.start()
    workers.request(wanted)
    workers.wait_announced(wanted, enough=2)
    (second,) = workers.start()
    workers.wait_announced(wanted)
    workers.stop(first)
    workers.stop(second)

    workers.start()
    workers.request(wanted)
    workers.wait_announced(wanted, times=2)
    assert set(workers.compilations().values()) == {1}
    assert len(workers.compilations()) == len(wanted)


@pytest.mark.heavy
def test_a_kernel_that_kills_its_worker_is_rejected_after_three_attempts(workers: Fleet) -> None:
    poison = request_for(blueprint("poison", KILL_WORKER), SITE)
    neighbours = requests(12, "0.3", "neighbour")
    workers.start(ESPER_INSTANCE_ID="one")
    workers.request([*neighbours[:6], poison, *neighbours[6:]])
    while not workers.rejected(poison.kernel_id):
        wait_until(
            lambda: (
                workers.rejected(poison.kernel_id)
                or not any(map(is_alive, workers.workers.values()))
            ),
            "a rejection, or the end of the worker",
        )
        if not workers.rejected(poison.kernel_id):
            workers.start(ESPER_INSTANCE_ID="one")
    workers.wait_announced(neighbours)

    (rejected,) = workers.rejected(poison.kernel_id)
    assert rejected.reason_code == "crashed"
    assert f"ended in each of {MAX_ATTEMPTS} attempts" in (rejected.reason or "")
    assert workers.compilations()[poison.kernel_id] == MAX_ATTEMPTS
    assert not any(workers.rejected(request.kernel_id) for request in neighbours)


@pytest.mark.heavy
def test_a_kernel_that_kills_its_process_is_rejected_with_the_last_reason(workers: Fleet) -> None:
    poison = request_for(blueprint("segfault", KILL_PROCESS), SITE)
    workers.start()
    workers.request([poison])
    wait_until(lambda: workers.rejected(poison.kernel_id), "a rejection")
    workers.request([poison])
    wait_until(lambda: len(workers.rejected(poison.kernel_id)) == 2, "a repeated rejection")

    first, second = workers.rejected(poison.kernel_id)
    assert "died with exit code -11" in (first.reason or "")
    assert (first.attempt, first.repeated) == (MAX_ATTEMPTS, False)
    assert (second.attempt, second.repeated) == (MAX_ATTEMPTS, True)
    assert workers.compilations()[poison.kernel_id] == MAX_ATTEMPTS
    own = [event for event in workers.attempts if event.kernel_id == poison.kernel_id]
    started = [event for event in own if event.status is CompileStatus.STARTED]
    assert [event.attempt for event in started] == [1, 2, 3]
    assert [event.reason is None for event in started] == [True, False, False]


def compiling(workers: Fleet) -> ProcessRecord | None:
    """Return a living worker that has begun a kernel and not ended it."""
    journal = workers.journal()
    ended = {(line.worker_pid, line.kernel_id) for line in journal if line.what == "end"}
    begun = {line.worker_pid for line in journal if (line.worker_pid, line.kernel_id) not in ended}
    return next(
        (one for pid, one in workers.workers.items() if pid in begun and is_alive(one)), None
    )


@pytest.mark.heavy
def test_500_kernels_are_compiled_once_by_four_workers_that_join_leave_and_are_killed(
    workers: Fleet,
) -> None:
    wanted = requests(500, "0.12", "storm")
    # In rounds: on a busy machine four workers finish 500 kernels before a fifth has started.
    rounds = [wanted[start : start + 125] for start in range(0, len(wanted), 125)]
    first, *_ = workers.start(4)
    killed = []
    for number, part in enumerate(rounds):
        workers.request([*part, *wanted[:25]])
        if number == 0:
            workers.wait_announced(part, enough=20)
            workers.stop(first)
        elif number < 3:
            victim = wait_until(lambda: compiling(workers), "a worker to be killed in a kernel")
            workers.kill(victim)
            killed.append(victim.pid)
        if number < 3:
            workers.start()
    workers.wait_announced(wanted)

    ours = {request.kernel_id for request in wanted}
    compiled = {kernel: n for kernel, n in workers.compilations().items() if kernel in ours}
    twice = {kernel: n for kernel, n in compiled.items() if n > 1}
    for kernel_id, count in twice.items():
        lines = [line for line in workers.journal() if line.kernel_id == kernel_id]
        *before, _ = [line.worker_pid for line in lines if line.what == "start"]
        assert all(pid in killed for pid in before), f"{kernel_id} was compiled {count} times"
        assert workers.announced[kernel_id] <= 2
    # A worker has at most two kernels in its processes and one being announced.
    assert len(twice) <= 3 * len(killed)
    assert compiled.keys() == ours
