"""Property: whatever fails, no read returns wrong bytes, and no durable kernel is lost."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper.store import KernelAltered, KernelMissing, KernelStore, StoreState, StoreUnavailable
from esper.store.health import LONGEST_PAUSE_S
from esper.store.memory import MemoryTier
from esper.store.naming import KernelName, name_of
from tests.store.failing_tier import FailingTier
from tests.store.servers import KERNEL_ID

CONTENTS = tuple(letter * 40 for letter in (b"a", b"b"))
NAMES = {content: name_of(KERNEL_ID, content) for content in CONTENTS}
MEMORY_BYTES = 50
"""One of the two contents fits."""

contents = st.sampled_from(CONTENTS)
numbers = st.integers(0, 1)


class Tiers(RuleBasedStateMachine):
    """Memory, a cache and a durable tier, against what was durably stored."""

    @initialize()
    def open(self) -> None:
        self.now_s = 0.0
        self.cache, self.durable = FailingTier("redis"), FailingTier("postgresql")
        self.others = (self.cache, self.durable)
        self.promised: set[KernelName] = set()
        self.restart_the_process()

    @rule()
    def restart_the_process(self) -> None:
        self.memory = MemoryTier(MEMORY_BYTES)
        self.store = KernelStore([self.memory, *self.others], clock=lambda: self.now_s)

    @rule(content=contents)
    def put(self, content: bytes) -> None:
        try:
            stored = self.store.put(KERNEL_ID, content)
        except StoreUnavailable:
            assert self.durable.down
            return
        assert any(tier.kept.get(NAMES[content]) == content for tier in self.others)
        assert stored.durable == (not self.durable.down)
        assert "postgresql" in stored.failed or stored.durable
        assert stored.degraded or self.cache.kept[NAMES[content]] == content
        if stored.durable:
            self.promised.add(NAMES[content])

    @rule(content=contents)
    def get(self, content: bytes) -> None:
        name = NAMES[content]
        in_memory = any(entry.name == name for entry in self.memory.entries())
        reachable = [tier for tier in self.others if not tier.down]
        intact = in_memory or any(tier.intact(name) for tier in reachable)
        altered = any(name in tier.kept for tier in reachable)
        try:
            data = self.store.get(str(name))
        except KernelAltered:
            assert not intact and altered and len(reachable) == 2
        except KernelMissing:
            assert not intact and not altered and len(reachable) == 2
        except StoreUnavailable:
            assert not intact and len(reachable) < 2
        else:
            assert intact
            assert data == content

    @rule(content=contents)
    def ask_whether_it_is_durable(self, content: bytes) -> None:
        name = NAMES[content]
        if self.durable.down:
            with pytest.raises(StoreUnavailable):
                self.store.is_durable(str(name))
        else:
            assert self.store.is_durable(str(name)) == self.durable.intact(name)

    @rule(number=numbers)
    def fail(self, number: int) -> None:
        self.others[number].down = True

    @rule(number=numbers)
    def recover(self, number: int) -> None:
        self.others[number].down = False

    @rule(seconds=st.sampled_from([0.1, 1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def lose_the_cache(self) -> None:
        self.cache.kept.clear()

    @rule(content=contents, number=numbers, poison=st.sampled_from([b"", b"x", b"a" * 41]))
    def poison(self, content: bytes, number: int, poison: bytes) -> None:
        name = NAMES[content]
        if name in self.others[number].kept:
            self.others[number].kept[name] = poison
            if self.others[number] is self.durable:
                self.promised.discard(name)

    @invariant()
    def memory_has_only_intact_kernels(self) -> None:
        for entry in self.memory.entries():
            data = self.memory.read(entry.name)
            assert data is not None and name_of(KERNEL_ID, data) == entry.name

    @invariant()
    def what_was_durable_is_durable(self) -> None:
        assert all(self.durable.intact(name) for name in self.promised)

    @rule()
    def be_healthy_after_the_longest_pause_if_all_answer(self) -> None:
        self.now_s += LONGEST_PAUSE_S
        if not any(tier.down for tier in self.others):
            assert self.store.state() is StoreState.HEALTHY


Tiers.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTiers: Any = Tiers.TestCase


def test_a_put_tries_the_durable_tier_although_it_failed_a_moment_ago() -> None:
    durable = FailingTier("postgresql")
    store = KernelStore([FailingTier("redis"), durable], clock=lambda: 0.0)
    durable.down = True
    assert not store.put(KERNEL_ID, CONTENTS[0]).durable
    durable.down = False
    assert store.put(KERNEL_ID, CONTENTS[0]).durable


def test_a_cache_that_failed_is_left_alone_for_a_while() -> None:
    now_s = [0.0]
    cache = FailingTier("redis")
    store = KernelStore([cache, FailingTier("postgresql")], clock=lambda: now_s[0])
    cache.down = True
    store.put(KERNEL_ID, CONTENTS[0])
    failures = [store.health()[0].counts.failures]
    for now_s[0] in (0.1, 0.4, 0.6, 0.7, 1.7, 3.8):
        store.put(KERNEL_ID, CONTENTS[0])
        failures.append(store.health()[0].counts.failures)
    assert failures == [1, 1, 1, 2, 2, 3, 4]
