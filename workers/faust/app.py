"""Create a guarded Faust app with fixed settings, and run it until it stops."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import uuid4

from faust.auth import Credentials, SASLCredentials, SSLCredentials
from faust.tables.manager import TableManager
from faust.types import TopicT

from esper.errors import EsperError
from esper.topics.bus import (
    BusError,
    partition_counts,
    read_past_unreadable_records,
    refusal_in,
    refused,
    require_access,
    ssl_context,
)
from esper.topics.catalog import MAX_MESSAGE_BYTES
from esper.topics.connection import Broker, KafkaConnection, connection_to
from esper.workers.faust.guards import ALL, ConfirmedTable, Guard, GuardedApp, RecordBatchSchema

log = logging.getLogger(__name__)

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_TOPICS_NOT_READY = 2

STOP_SLACK_S = 15.0
"""Seconds that a shutdown may take beyond `drain_timeout_s` before the process is ended."""


class WorkerError(EsperError):
    """Base of errors that keep a worker from running."""


class TopicsNotReady(WorkerError):
    """Topics are missing or have a wrong partition count; the message names each of them."""


def make_app(
    app_id: str,
    *,
    bootstrap_servers: Broker,
    data_dir: Path,
    instance_id: str | None = None,
    session_timeout_s: float = 15.0,
    heartbeat_interval_s: float = 1.0,
    drain_timeout_s: float = 10.0,
    guards: Collection[Guard] = ALL,
) -> GuardedApp:
    """Return a Faust app that creates no topics, serves no web pages and reads no environment.

    `instance_id` enables static membership: it must be unique in the consumer group and the same
    after a restart, so that the broker assigns the same partitions again without a rebalance.
    Without it each start joins as a new member.

    Raises:
        TlsFileUnusable: a certificate or key file of the connection cannot be loaded.
    """
    connection = connection_to(bootstrap_servers)
    read_past_unreadable_records()
    data_dir.mkdir(parents=True, exist_ok=True)
    member = instance_id or uuid4().hex
    return GuardedApp(
        app_id,
        connection,
        guards=guards,
        drain_timeout_s=drain_timeout_s,
        env={},  # otherwise variables such as TIMEZONE or BROKER_URL override these arguments
        broker=[f"kafka://{server}" for server in connection.bootstrap_servers.split(",")],
        broker_credentials=credentials_for(connection),
        broker_client_id=f"{app_id}-{member}",
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=heartbeat_interval_s,
        consumer_group_instance_id=instance_id,
        consumer_auto_offset_reset="earliest",
        # The assignor identifies members by this address; nothing listens there.
        canonical_url=f"http://{member}",
        producer_linger=0.0,  # each record batch waits for its table writes
        producer_max_request_size=MAX_MESSAGE_BYTES,
        store="memory://",
        datadir=data_dir,
        processing_guarantee="at_least_once",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )


def raw_topic(app: GuardedApp, name: str) -> TopicT:
    """Return a topic whose keys and values reach the agent as bytes or None, undecoded."""
    return app.topic(
        name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )


def batch_topic(app: GuardedApp, name: str) -> TopicT:
    """Return a topic whose records reach the agent as record batches, for `process_batches`."""
    app.batched_topics.add(name)
    return app.topic(name, schema=RecordBatchSchema())


def bytes_table(app: GuardedApp, name: str, partitions: int) -> ConfirmedTable:
    """Return a bytes-to-bytes table; `partitions` is that of the topic its agent reads."""
    table = app.Table(name, key_type=bytes, value_type=bytes, partitions=partitions)
    return cast(ConfirmedTable, table)


def credentials_for(connection: KafkaConnection) -> Credentials | None:
    """Return Faust's form of a connection's TLS and credentials.

    Raises:
        TlsFileUnusable: a certificate or key file cannot be loaded.
    """
    context = ssl_context(connection.tls) if connection.tls is not None else None
    if connection.sasl is not None:
        return SASLCredentials(
            username=connection.sasl.username,
            password=connection.sasl.password.get_secret_value(),
            mechanism=connection.sasl.mechanism.value,
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None


async def verify_topics(broker: Broker, expected: Mapping[str, int]) -> None:
    """Compare the broker's topics with `expected`: partition counts by topic name.

    Raises:
        TopicsNotReady: a topic is missing or has another partition count.
        BrokerUnreachable, ConnectionRefused: no broker answers, or it refuses this client.
    """
    found = await partition_counts(broker)
    faults = [
        f"{name} has {found[name]} partitions instead of {partitions}"
        if name in found
        else f"{name} is missing"
        for name, partitions in sorted(expected.items())
        if found.get(name) != partitions
    ]
    if faults:
        raise TopicsNotReady(f"topics not ready: {'; '.join(faults)}; run `esper topics create`")


def is_ready(app: GuardedApp) -> bool:
    """Return whether the app has its partitions and restored tables, and no rebalance runs.

    Safe from any thread: before the first rebalance this reads plain attributes only, because
    Faust creates its services on first use and binds them to the event loop of that thread.
    """
    if app.rebalancing_count == 0 or app.rebalancing:
        return False
    return not app.failed and cast(TableManager, app.tables).recovery.completed.is_set()


async def _nothing() -> None:
    """Do nothing: the default for `close`."""


def run(
    app: GuardedApp,
    *,
    topics: Mapping[str, int],
    close: Callable[[], Awaitable[None]] = _nothing,
) -> int:
    """Run the app until SIGTERM, SIGINT or a failure, and return the exit code of the process.

    `topics` maps the topics that the app reads and writes to their partition counts; these topics
    and the tables' changelogs are verified first. `close` is awaited on the app's event loop after
    its agents have ended.

    Exit code 0: stopped with no record in flight. 1: failed, or stopped with records in flight.
    2: a topic is missing or has a wrong partition count.
    """
    logging.disable(logging.DEBUG)  # Faust builds debug records even at a higher log level
    for library in ("faust", "mode"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # aiokafka logs ten errors a second while the broker is away; the producer logs one.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    _leave_out_refusals(app.connection)
    try:
        return asyncio.run(_run(app, topics, close))
    except TopicsNotReady as error:
        print(error, file=sys.stderr)
        return EXIT_TOPICS_NOT_READY
    except BusError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED


async def _run(
    app: GuardedApp, topics: Mapping[str, int], close: Callable[[], Awaitable[None]]
) -> int:
    expected = {**topics, **_changelogs(app)}
    await require_access(app.connection, expected, app.conf.id)
    await verify_topics(app.connection, expected)
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    app.in_worker = True
    running = asyncio.create_task(_run_app(app))
    stopping = asyncio.create_task(signalled.wait())
    refusing = asyncio.create_task(refused(app.connection))
    await asyncio.wait({running, stopping, refusing}, return_when=asyncio.FIRST_COMPLETED)
    refusal = refusal_in(app.connection, app.crash_reason)
    if refusing.done():
        refusal = refusing.result()
    if refusal is not None:
        # Before the shutdown, which can wait in vain for records that the broker refuses.
        print(refusal, file=sys.stderr, flush=True)
    log.info("stopping %s", app.conf.id)
    with _ended_after(app.drain_timeout_s + STOP_SLACK_S):
        await app.stop()
        for task in (running, stopping, refusing):
            task.cancel()
        outcomes = await asyncio.gather(running, return_exceptions=True)
        await close()
    crashed = any(isinstance(outcome, Exception) for outcome in outcomes)
    return EXIT_FAILED if app.failed or crashed or refusal else EXIT_STOPPED


def _leave_out_refusals(connection: KafkaConnection) -> None:
    """Log no traceback of a broker's refusal: the last line of the process reports it."""

    def is_shown(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RuntimeError) and str(error) == "Event loop is closed":
            return False  # A thread of Faust that a refusal ended before Faust stops it.
        return refusal_in(connection, error) is None

    for handler in logging.getLogger().handlers:
        handler.addFilter(is_shown)


async def _run_app(app: GuardedApp) -> None:
    """Start the app; return when it has crashed or was stopped."""
    await app.start()
    await app.wait_until_stopped()


def _changelogs(app: GuardedApp) -> dict[str, int]:
    return {table.changelog_topic_name: table.partitions for table in app.tables.values()}


@contextmanager
def _ended_after(timeout_s: float) -> Iterator[None]:
    """End the process if the block takes longer: a thread of Faust can block a shutdown forever."""

    def end() -> None:
        log.critical("the worker did not stop within %.0f s; ending the process", timeout_s)
        os._exit(EXIT_FAILED)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
