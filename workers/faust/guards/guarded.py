"""Faust's consumer, recovery, agent and app, each with the overrides that close its defects."""

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
from esper.workers.faust.guards.guard import ALL, Guard
from esper.workers.faust.guards.record_batches import records_of, split, weight_of
from esper.workers.faust.guards.table import ConfirmedTable

log = logging.getLogger(__name__)

FETCH_WAIT_S = 0.2
"""How long one fetch waits for records: a rebalance has to wait for the fetch under way."""

MAX_OUT_BYTES = 16 * 1024 * 1024
"""No more is fetched while parcels of this weight are handed out and not finished."""


class GuardedConsumer(Consumer):
    """A consumer that commits what was finished, and no more."""

    def __init__(
        self, transport: TransportT, callback: ConsumerCallback, *args: Any, **kwargs: Any
    ) -> None:
        self._guards = cast(GuardedApp, transport.app).guards
        self._delivered: defaultdict[TP, deque[Message]] = defaultdict(deque)
        self._halted = False
        self._out_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._hand_out = callback
        self._fetch_over = asyncio.Event()
        self._fetch_over.set()
        super().__init__(transport, self._deliver, *args, **kwargs)

    def halt_commits(self) -> None:
        """Commit nothing from now on: what is not yet committed will be read again."""
        self._halted = True

    @property
    def halted(self) -> bool:
        """Whether `halt_commits` was called."""
        return self._halted

    async def _deliver(self, message: Message) -> None:
        if self.app.topics.acks_enabled_for(message.topic):
            self._delivered[message.tp].append(message)
        self._count_out(weight_of(message))
        await self._hand_out(message)

    def ack(self, message: Message) -> bool:
        """Mark a message as finished; this makes room for others."""
        if not message.acked:
            self._count_out(-weight_of(message))
        return super().ack(message)

    def _count_out(self, weight: int) -> None:
        # Parcels of an assignment before may be finished after the count began anew.
        self._out_bytes = max(0, self._out_bytes + weight)
        if self._out_bytes < MAX_OUT_BYTES:
            self._room.set()
        else:
            self._room.clear()

    def _forget_delivered(self) -> None:
        """Forget what was handed out under the assignment before; it is read again."""
        self._delivered.clear()
        self._count_out(-self._out_bytes)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, list):
            return super()._to_message(tp, record)
        read_to = self._read_offset[tp] or 0
        records = [each for each in record if each.offset >= read_to] or record
        message = super()._to_message(tp, records[-1])
        message.key, message.headers = None, []
        # Faust hands the value on without looking at it.
        message.value = cast(Any, tuple(map(Record.from_client, records)))
        return message

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        return {} if self._halted else super()._filter_committable_offsets(tps)

    def _new_offset(self, tp: TP) -> int | None:
        if Guard.COMMIT_GAPS not in self._guards:
            return super()._new_offset(tp)
        delivered = self._delivered[tp]
        finished: int | None = None
        # Faust's Python stream acks messages of an old generation without having started them;
        # `tracked` tells them apart. Its compiled stream leaves them alone.
        while delivered and delivered[0].acked and delivered[0].tracked:
            finished = delivered.popleft().offset + 1
        if finished is not None:
            self._acked[tp] = [offset for offset in self._acked[tp] if offset >= finished]
            self._acked_index[tp].intersection_update(self._acked[tp])
        return finished

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # Offsets that the broker never hands out (compacted away) leave no hole in what was
        # delivered, so the finished prefix needs no record of them. Neither do those that lie
        # between the ends of two parcels.
        parcelled = tp.topic in cast(GuardedApp, self.app).parcelled
        if Guard.COMMIT_GAPS not in self._guards and not parcelled:
            await super()._add_gap(tp, offset_from, offset_to)

    async def still(self) -> None:
        """Stop the flow of records and wait until no fetch is under way.

        A fetch that outlives the pause takes records, of the changelogs too, from positions that
        are about to change, and drops them: tables then wait for them without end.
        """
        self.stop_flow()
        await self._fetch_over.wait()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        self._fetch_over.clear()
        try:
            if not await self._has_room():
                return {}
            found = await super()._getmany(active_partitions, min(timeout, FETCH_WAIT_S))
            return {tp: self._parcelled(tp, records) for tp, records in found.items()}
        finally:
            self._fetch_over.set()

    async def _has_room(self) -> bool:
        if self._room.is_set():
            return True
        try:
            await asyncio.wait_for(self._room.wait(), FETCH_WAIT_S)
        except TimeoutError:
            return False
        # A rebalance may have begun meanwhile.
        return self.flow_active

    def _parcelled(self, tp: TP, records: list[Any]) -> list[Any]:
        parcelled = tp.topic in cast(GuardedApp, self.app).parcelled
        return list(split(records)) if parcelled else records

    async def _wait_next_records(self, timeout: float) -> tuple[RecordMap | None, set[TP] | None]:
        records, active_partitions = await super()._wait_next_records(timeout)
        if Guard.REBALANCE_SEEK in self._guards and not self.flow_active:
            return None, None  # else Faust seeks here as well, while the recovery does
        return records, active_partitions

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Forget what was handed out under the assignment before; it is read again."""
        self._forget_delivered()
        if Guard.REBALANCE_SEEK in self._guards:
            await self.still()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Go back to the committed offsets, and to the beginning where nothing is committed."""
        self._forget_delivered()
        await super().perform_seek()
        if Guard.REBALANCE_SEEK not in self._guards:
            return
        # The client's own seek leaves partitions without a commit where they happen to be. Zero is
        # the beginning even where the log starts later: the client then resets to its start.
        uncommitted = [
            tp
            for tp in self.assignment()
            if self.app.topics.acks_enabled_for(tp.topic) and not self._committed_offset[tp]
        ]
        if uncommitted:
            await self.seek_wait(dict.fromkeys(uncommitted, 0))


class ConfirmedProducer(Producer):
    """A producer whose records every in-sync replica has, once, before they count as sent."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class GuardedTransport(Transport):
    """The Kafka transport with our consumer and producer."""

    Consumer = GuardedConsumer
    Producer = ConfirmedProducer


class QuietRecovery(Recovery):
    """Ends the recovery of tables with the flow of records stopped until the seek is done."""

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Seek and resume, for apps with tables."""
        await cast(GuardedConsumer, self.app.consumer).still()
        await super().on_recovery_completed(generation_id)

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await cast(GuardedConsumer, self.app.consumer).still()
        await super()._resume_streams(generation_id)


class QuietTables(TableManager):
    """The table manager with our recovery."""

    @property
    def recovery(self) -> Recovery:
        """The service that fills the tables after a rebalance."""
        if self._recovery is None:
            self._recovery = QuietRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class FailingAgent(Agent):
    """An agent whose failure is the failure of the app."""

    async def _execute_actor(self, coro: Awaitable[None], aref: ActorRefT) -> None:
        await super()._execute_actor(self._fail_app(coro), aref)

    async def _fail_app(self, coro: Awaitable[None]) -> None:
        try:
            await coro
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something that the agent awaited was cancelled. Faust would take it for the agent's
            # own end, and nobody would read on.
            await self._crash_app(RuntimeError("the agent awaited a task that was cancelled"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the app
            await self._crash_app(error)

    async def _crash_app(self, error: Exception) -> None:
        # Before anything is awaited: the stream acks the failed record when it is collected.
        cast(GuardedConsumer, self.app.consumer).halt_commits()
        await cast(faust.App, self.app).crash(error)


class GuardedApp(faust.App):
    """A Faust app in which the given guards are on; `parcelled` names topics read in parcels.

    Tables must not have standby replicas: Faust's standby reader does not survive the pause in
    the flow of records that `Guard.REBALANCE_SEEK` needs.
    """

    def __init__(
        self,
        id: str,
        *,
        guards: Collection[Guard] = ALL,
        drain_timeout_s: float = 10.0,
        **settings: Any,
    ) -> None:
        self.guards = frozenset(guards)
        self.drain_timeout_s = drain_timeout_s
        self.parcelled: set[str] = set()
        super().__init__(
            id,
            Agent=FailingAgent if Guard.CRASH_ON_ERROR in self.guards else Agent,
            TableManager=QuietTables if Guard.REBALANCE_SEEK in self.guards else TableManager,
            stream_wait_empty=Guard.DRAIN_ON_STOP in self.guards,
            Table=ConfirmedTable,
            table_standby_replicas=0,
            **settings,
        )

    @property
    def failed(self) -> bool:
        """Whether the app crashed, or stopped with records unfinished."""
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
        # Faust's wait swallows cancellation; it is left to end by itself with the consumer.
        _, unfinished = await asyncio.wait(
            {asyncio.ensure_future(draining)}, timeout=self.drain_timeout_s
        )
        if unfinished:
            cast(GuardedConsumer, consumer).halt_commits()
            log.error(
                "%d records still in work after %.0f s of stopping; they will be read again",
                sum(len(records_of(message)) or 1 for message in consumer.unacked),
                self.drain_timeout_s,
            )
