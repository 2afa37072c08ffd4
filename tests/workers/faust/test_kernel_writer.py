"""A kernel is announced only when the durable tier has it; a cache delays nothing."""

import asyncio
from collections.abc import Callable

import pytest

from esper.store import KernelStore, StoreUnavailable
from esper.topics.codec import sha256_of
from esper.workers.faust import kernel_writer
from esper.workers.faust.kernel_writer import KernelWriter
from tests.store.failing_tier import FailingTier

KERNEL_ID = sha256_of(b"the plan")
ARTIFACT = b"an artifact"
LOCATION = f"{KERNEL_ID}/{sha256_of(ARTIFACT)}"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_writer, "RETRY_S", 0.01)
    monkeypatch.setattr(kernel_writer, "REFILL_PAUSE_S", 0.01)


class RecoveringTier(FailingTier):
    """A tier that is down for a number of writes."""

    def __init__(self, kind: str, failures: int) -> None:
        super().__init__(kind)
        self.failures = failures

    def write(self, name: object, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable(f"{self.kind} is down")
        super().write(name, data)  # type: ignore[arg-type]


async def waited_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_put_returns_only_when_the_durable_tier_has_the_kernel() -> None:
    cache, durable = FailingTier("redis"), RecoveringTier("postgresql", failures=2)
    writer = KernelWriter(KernelStore([cache, durable]))

    location = asyncio.run(writer.put(KERNEL_ID, ARTIFACT))

    assert location == LOCATION
    assert durable.failures == 0
    assert list(durable.kept.values()) == [ARTIFACT]


def test_a_put_does_not_wait_for_a_cache_which_gets_the_kernel_when_it_answers() -> None:
    cache, durable = FailingTier("redis"), FailingTier("postgresql")
    cache.down = True
    writer = KernelWriter(KernelStore([cache, durable]))

    async def outage() -> None:
        assert await writer.put(KERNEL_ID, ARTIFACT) == LOCATION
        assert not cache.kept
        cache.down = False
        await waited_for(lambda: ARTIFACT in cache.kept.values())

    asyncio.run(outage())


def test_a_kernel_that_only_a_cache_has_is_not_durable() -> None:
    cache, durable = FailingTier("redis"), FailingTier("postgresql")
    writer = KernelWriter(KernelStore([cache, durable]))
    asyncio.run(writer.put(KERNEL_ID, ARTIFACT))
    durable.kept.clear()
    assert not asyncio.run(writer.is_durable(LOCATION))
