"""Turns to compile: locks of kernels, and suspects alone."""

import asyncio

from esper.workers.compile.turns import CompileTurns, KernelLocks


def test_one_request_of_a_kernel_at_a_time() -> None:
    async def scene() -> list[str]:
        locks, log = KernelLocks(), list[str]()

        async def work(kernel: str, name: str) -> None:
            async with locks.holding(kernel):
                log.append(f"begin {name}")
                await asyncio.sleep(0)
                log.append(f"end {name}")

        await asyncio.gather(work("k", "one"), work("k", "two"))
        assert not locks._locks
        return log

    assert asyncio.run(scene()) == ["begin one", "end one", "begin two", "end two"]


def test_a_suspect_waits_for_all_others_and_those_that_come_later_wait_for_it() -> None:
    async def scene() -> list[str]:
        turns, log = CompileTurns(), list[str]()
        release = asyncio.Event()

        async def work(name: str, alone: bool) -> None:
            async with turns.taken(alone=alone):
                log.append(f"begin {name}")
                if name == "first":
                    await release.wait()
                log.append(f"end {name}")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work("first", alone=False))
            await asyncio.sleep(0)
            tasks.create_task(work("suspect", alone=True))
            await asyncio.sleep(0)
            tasks.create_task(work("late", alone=False))
            for _ in range(5):
                await asyncio.sleep(0)
            assert log == ["begin first"]
            release.set()
        return log

    assert asyncio.run(scene()) == [
        "begin first",
        "end first",
        "begin suspect",
        "end suspect",
        "begin late",
        "end late",
    ]
