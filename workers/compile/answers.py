"""The index of answers: which kernels are ready, rejected, or were attempted without an answer.

It is read from `kernel-ready` and `kernel-compiled`. Kafka gives a partition of `kernel-requested`
one owner: the next one begins when the previous one has finished the kernels in work, or died. An
owner that has read the partitions with the answers to their ends therefore knows every answer.
"""

import os
import secrets
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import structlog

from esper.blueprint import RejectionCode
from esper.topics.bus import Follower, Record, partition_of
from esper.topics.catalog import KERNEL_COMPILED, KERNEL_READY, Topic, partition_key
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.connection import Broker
from esper.topics.models import CompileStatus, KernelCompiled, KernelReady, KernelRequested

log = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
"""Attempts to compile a kernel whose attempts end without an answer, or at a machine's limits."""

RETRIED: Final = frozenset(
    {
        RejectionCode.TIMEOUT,
        RejectionCode.OUT_OF_MEMORY,
        RejectionCode.CRASHED,
        RejectionCode.WORKER_ERROR,
    }
)
"""Rejections that another attempt may not repeat: final after `MAX_ATTEMPTS` only."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts since a kernel was last ready: how many, and how the last one ended, if known."""

    count: int = 0
    reason: str | None = None
    rejected: KernelCompiled | None = None

    @property
    def answered(self) -> bool:
        """Whether the last attempt ended in a rejection that another attempt would repeat."""
        if self.rejected is None:
            return False
        return self.rejected.reason_code not in RETRIED or self.count >= MAX_ATTEMPTS


NO_ATTEMPT: Final = Attempts()


class _Announced(NamedTuple):
    """The blueprint of a kernel, the bytes of its announcement, and their partition."""

    blueprint: str
    value: bytes
    partition: int


class Answers:
    """The announcements and attempts of all kernels, followed on the topics.

    Announcements are kept as bytes, about 700 for each kernel. `worker` names this process.
    """

    def __init__(self, broker: Broker) -> None:
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._ready: dict[str, _Announced] = {}
        self._attempts: dict[str, Attempts] = {}
        self._follower = Follower(broker, (KERNEL_READY.name, KERNEL_COMPILED.name), self._apply)
        self._caught_up: set[tuple[int, str, int]] = set()
        self.on_answer: Callable[[str], None] = lambda kernel_id: None
        """Called with the id of each kernel that was announced or rejected."""

    async def caught_up(self, request: KernelRequested, generation: int) -> None:
        """Return when all that previous owners wrote about a requested kernel is read.

        `generation` is that of the consumer group when the request was read: within one, nobody
        else writes about the kernels of the partitions that this worker owns.
        """
        partitions = {
            KERNEL_COMPILED.name: _partition(KERNEL_COMPILED, request.kernel_id),
            KERNEL_READY.name: _partition(KERNEL_READY, request.site_signature),
        }
        awaited = {(generation, topic, number) for topic, number in partitions.items()}
        if awaited <= self._caught_up:
            return
        await self._follower.caught_up(partitions)
        self._caught_up = {at for at in self._caught_up if at[0] == generation} | awaited

    async def all_caught_up(self) -> None:
        """Return when everything that the topics have now is read."""
        await self._follower.caught_up()

    async def stop(self) -> None:
        """Stop reading."""
        await self._follower.stop()

    def ready(self, kernel_id: str) -> KernelReady | None:
        """Return the last announcement of a kernel, if it was not withdrawn."""
        known = self._ready.get(kernel_id)
        return None if known is None else decode(KernelReady, known.value)

    def attempts(self, kernel_id: str) -> Attempts:
        """Return the attempts since the kernel was last ready."""
        return self._attempts.get(kernel_id, NO_ATTEMPT)

    def has(self, kernel_id: str) -> bool:
        """Return whether a kernel is ready or finally rejected."""
        return kernel_id in self._ready or self.attempts(kernel_id).answered

    def ready_of(self, blueprint_ids: Collection[str]) -> list[str]:
        """Return the ids of the announced kernels of some blueprints."""
        return [
            kernel_id
            for kernel_id, known in self._ready.items()
            if known.blueprint in blueprint_ids
        ]

    def blueprint_of(self, kernel_id: str) -> str | None:
        """Return the blueprint id of an announced kernel."""
        known = self._ready.get(kernel_id)
        return None if known is None else known.blueprint

    def announced(self, ready: KernelReady) -> None:
        """Add an announcement of this process, which the broker has acknowledged."""
        partition = _partition(KERNEL_READY, ready.site_signature)
        self._ready[ready.kernel_id] = _Announced(ready.blueprint_id, encode(ready), partition)

    def withdrawn(self, kernel_id: str) -> None:
        """Remove the announcement of a kernel, which the broker has acknowledged as removed."""
        self._ready.pop(kernel_id, None)

    def attempted(self, event: KernelCompiled) -> None:
        """Add the beginning or the end of an attempt; one for all sites is ignored."""
        if event.site_signature is None:
            return
        match event.status:
            case CompileStatus.STARTED:
                count = event.attempt or self.attempts(event.kernel_id).count + 1
                self._attempts[event.kernel_id] = Attempts(count, event.reason)
            case CompileStatus.READY:
                self._attempts.pop(event.kernel_id, None)
            case CompileStatus.REJECTED if not event.repeated:
                count = event.attempt or max(1, self.attempts(event.kernel_id).count)
                self._attempts[event.kernel_id] = Attempts(count, event.reason, event)

    def failed(self, kernel_id: str, reason: str) -> None:
        """Note why the attempt that has just ended gave no kernel."""
        self._attempts[kernel_id] = replace(self.attempts(kernel_id), reason=reason[:1000])

    def _apply(self, record: Record) -> None:
        try:
            if record.topic == KERNEL_READY.name:
                self._apply_announcement(record)
            else:
                event = decode(KernelCompiled, record.value)
                if event.worker != self.worker:  # its own are known, and later ones too
                    self.attempted(event)
                if event.status is CompileStatus.REJECTED:
                    self.on_answer(event.kernel_id)
        except Undecodable as error:
            log.warning("answer skipped", record=record.place, why=str(error))

    def _apply_announcement(self, record: Record) -> None:
        kernel_id = (record.key or b"").decode("ascii", "replace")
        if record.value is None:
            known = self._ready.get(kernel_id)
            if known is not None and known.partition == record.partition:
                del self._ready[kernel_id]
            return
        ready = decode(KernelReady, record.value)
        if record.partition != _partition(KERNEL_READY, ready.site_signature):
            # No trainer reads it there: the kernel is announced again when it is requested.
            log.warning("announcement on another site's partition", record=record.place)
            return
        announced = _Announced(ready.blueprint_id, record.value, record.partition)
        self._ready[ready.kernel_id] = announced
        self.on_answer(ready.kernel_id)


def _partition(topic: Topic, value: object) -> int:
    """Return the partition of records whose partition field has a value."""
    return partition_of(partition_key(value), topic.partitions)
