"""Faust's consumer, producer, recovery, agent and app with the overrides that close its defects."""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Collection, Iterable, Mapping
from typing import Any, cast

import faust
from faust.agents import Agent
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import RecordMap
from faust.transport.drivers.aiokafka import Consumer, Producer, Transport
from faust.types import TP, Message
from faust.types.agents import ActorRefT
from faust.types.transports import ConsumerCallback, ConsumerT, TransportT
from faust.types.tuples import ConsumerMessage

from esper.topics.bus import Record
from esper.topics.connection import KafkaConnection
from esper.workers.faust.guards.guard import ALL, Guard
from esper.workers.faust.guards.record_batches import memory_bytes, records_of, split
from esper.workers.faust.guards.table import ConfirmedTable

log = logging.getLogger(__name__)

FETCH_WAIT_S = 0.2
"""How long one fetch waits for records: a rebalance waits for the running fetch."""

MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Fetching pauses while record batches of this size are in flight."""


class GuardedConsumer(Consumer):
    """A consumer that commits only offsets of finished records."""

    def __init__(
        self, transport: TransportT, callback: ConsumerCallback, *args: Any, **kwargs: Any
    ) -> None:
        self._guards = cast(GuardedApp, transport.app).guards
        self._delivered: defaultdict[TP, deque[Message]] = defaultdict(deque)
        self._halted = False
        self._in_flight_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._pass_to_agent = callback
        self._fetch_over = asyncio.Event()
        self._fetch_over.set()
        super().__init__(transport, self._deliver, *args, **kwargs)

    def halt_commits(self) -> None:
        """Commit nothing more: later records are read again after a restart."""
        self._halted = True

    @property
    def halted(self) -> bool:
        """Whether `halt_commits` was called."""
        return self._halted

    async def _deliver(self, message: Message) -> None:
        if self.app.topics.acks_enabled_for(message.topic):
            self._delivered[message.tp].append(message)
        self._add_in_flight(memory_bytes(message))
        await self._pass_to_agent(message)

    def ack(self, message: Message) -> bool:
        """Mark a message as finished, so that more records may be fetched."""
        if not message.acked:
            self._add_in_flight(-memory_bytes(message))
        return super().ack(message)

    def _add_in_flight(self, size_bytes: int) -> None:
        # A batch of a revoked partition may finish after the count was reset: keep it at 0 or more.
        self._in_flight_bytes = max(0, self._in_flight_bytes + size_bytes)
        if self._in_flight_bytes < MAX_IN_FLIGHT_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    def _forget_delivered(self) -> None:
        """Drop the in-flight records of the previous assignment: they are read again."""
        self._delivered.clear()
        self._add_in_flight(-self._in_flight_bytes)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, list):
            return super()._to_message(tp, record)
        read_to = self._read_offset[tp] or 0
        records = [item for item in record if item.offset >= read_to] or record
        message = super()._to_message(tp, records[-1])
        message.key, message.headers = None, []
        # Faust passes the value on without reading it.
        message.value = cast(Any, tuple(map(Record.from_client, records)))
        return message

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        return {} if self._halted else super()._filter_committable_offsets(tps)

    def _new_offset(self, tp: TP) -> int | None:
        if Guard.COMMIT_GAPS not in self._guards:
            return super()._new_offset(tp)
        delivered = self._delivered[tp]
        finished: int | None = None
        # Faust's Python stream acknowledges messages of an older generation that no agent started;
        # these are not `tracked`. Its compiled stream does not acknowledge them.
        while delivered and delivered[0].acked and delivered[0].tracked:
            finished = delivered.popleft().offset + 1
        if finished is not None:
            self._acked[tp] = [offset for offset in self._acked[tp] if offset >= finished]
            self._acked_index[tp].intersection_update(self._acked[tp])
        return finished

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # Offsets without a record (compacted away) need no bookkeeping: the committed offset
        # follows the delivered records. The same holds for offsets inside a record batch.
        batched = tp.topic in cast(GuardedApp, self.app).batched_topics
        if Guard.COMMIT_GAPS not in self._guards and not batched:
            await super()._add_gap(tp, offset_from, offset_to)

    async def pause_fetching(self) -> None:
        """Stop the flow of records and wait until no fetch is running.

        A fetch that runs during a seek reads records (of changelogs too) from positions that are
        about to change, and drops them: the table recovery then waits for them forever.
        """
        self.stop_flow()
        await self._fetch_over.wait()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        self._fetch_over.clear()
        try:
            if not await self._wait_for_room():
                return {}
            found = await super()._getmany(active_partitions, min(timeout, FETCH_WAIT_S))
            return {tp: self._batched(tp, records) for tp, records in found.items()}
        finally:
            self._fetch_over.set()

    async def _wait_for_room(self) -> bool:
        if self._has_room.is_set():
            return True
        try:
            await asyncio.wait_for(self._has_room.wait(), FETCH_WAIT_S)
        except TimeoutError:
            return False
        # A rebalance may have started during the wait.
        return self.flow_active

    def _batched(self, tp: TP, records: list[Any]) -> list[Any]:
        batched = tp.topic in cast(GuardedApp, self.app).batched_topics
        return list(split(records)) if batched else records

    async def _wait_next_records(self, timeout: float) -> tuple[RecordMap | None, set[TP] | None]:
        records, active_partitions = await super()._wait_next_records(timeout)
        if Guard.REBALANCE_SEEK in self._guards and not self.flow_active:
            return None, None  # Faust would seek here too, at the same time as the recovery
        return records, active_partitions

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Drop the in-flight records of revoked partitions: they are read again."""
        self._forget_delivered()
        if Guard.REBALANCE_SEEK in self._guards:
            await self.pause_fetching()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or to the beginning of partitions without one."""
        self._forget_delivered()
        await super().perform_seek()
        if Guard.REBALANCE_SEEK not in self._guards:
            return
        # The client's own seek does not move partitions without a committed offset. Offset 0 also
        # works where the log starts later: the client then resets to the log's start.
        uncommitted = [
            tp
            for tp in self.assignment()
            if self.app.topics.acks_enabled_for(tp.topic) and not self._committed_offset[tp]
        ]
        if uncommitted:
            await self.seek_wait(dict.fromkeys(uncommitted, 0))


class ConfirmedProducer(Producer):
    """An idempotent producer that waits for all in-sync replicas (acks=all)."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class GuardedTransport(Transport):
    """The Kafka transport with the guarded consumer and the confirmed producer."""

    Consumer = GuardedConsumer
    Producer = ConfirmedProducer


class PausedRecovery(Recovery):
    """A table recovery that pauses fetching until the seek after it is done."""

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Pause fetching, then seek and resume; Faust calls this for apps with tables."""
        await cast(GuardedConsumer, self.app.consumer).pause_fetching()
        await super().on_recovery_completed(generation_id)

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await cast(GuardedConsumer, self.app.consumer).pause_fetching()
        await super()._resume_streams(generation_id)


class PausedTableManager(TableManager):
    """The table manager with the paused recovery, which starts without a pause of its own."""

    async def on_start(self) -> None:
        """Start tables and recovery now: Faust waits for a second for tables to be registered."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """The service that restores tables from their changelogs after a rebalance."""
        if self._recovery is None:
            self._recovery = PausedRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class FailingAgent(Agent):
    """An agent whose failure ends the app."""

    async def _execute_actor(self, coro: Awaitable[None], aref: ActorRefT) -> None:
        await super()._execute_actor(self._fail_app(coro), aref)

    async def _fail_app(self, coro: Awaitable[None]) -> None:
        try:
            await coro
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A task that the agent awaited was cancelled, not the agent. Faust would end the agent
            # without a word, and its partitions would have no reader.
            await self._crash_app(RuntimeError("the agent awaited a task that was cancelled"))
        except Exception as error:  # noqa: BLE001 - any error ends the app
            await self._crash_app(error)

    async def _crash_app(self, error: Exception) -> None:
        # Before the first await: the stream acknowledges the failed record when it is collected.
        cast(GuardedConsumer, self.app.consumer).halt_commits()
        await cast(faust.App, self.app).crash(error)


class GuardedApp(faust.App):
    """A Faust app with the given guards; `batched_topics` are read as record batches.

    Tables have no standby replicas: Faust's standby reader does not survive the pause in fetching
    that `Guard.REBALANCE_SEEK` needs.
    """

    def __init__(
        self,
        id: str,
        connection: KafkaConnection,
        *,
        guards: Collection[Guard] = ALL,
        drain_timeout_s: float = 10.0,
        **settings: Any,
    ) -> None:
        self.connection = connection
        self.guards = frozenset(guards)
        self.drain_timeout_s = drain_timeout_s
        self.batched_topics: set[str] = set()
        super().__init__(
            id,
            Agent=FailingAgent if Guard.CRASH_ON_ERROR in self.guards else Agent,
            TableManager=PausedTableManager
            if Guard.REBALANCE_SEEK in self.guards
            else TableManager,
            stream_wait_empty=Guard.DRAIN_ON_STOP in self.guards,
            Table=ConfirmedTable,
            table_standby_replicas=0,
            **settings,
        )

    @property
    def failed(self) -> bool:
        """Whether the app crashed or stopped with records in flight."""
        consumer = cast(GuardedConsumer | None, self._consumer)
        return self.crashed or (consumer is not None and consumer.halted)

    def _new_transport(self) -> TransportT:
        return GuardedTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> TransportT:
        return GuardedTransport(self.conf.broker_producer, self)

    async def _consumer_wait_empty(self, consumer: ConsumerT, logger: Any) -> None:
        draining = super()._consumer_wait_empty(consumer, logger)
        if not self.should_stop or Guard.DRAIN_ON_STOP not in self.guards:
            await draining
            return
        # Faust's wait ignores cancellation; it ends with the consumer.
        _, unfinished = await asyncio.wait(
            {asyncio.ensure_future(draining)}, timeout=self.drain_timeout_s
        )
        if unfinished:
            cast(GuardedConsumer, consumer).halt_commits()
            log.error(
                "%d records still in flight %.0f s after the stop signal; they will be read again",
                sum(len(records_of(message)) or 1 for message in consumer.unacked),
                self.drain_timeout_s,
            )
