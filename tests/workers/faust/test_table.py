"""A table write is on the changelog before its record is acknowledged."""

import asyncio
import os
import secrets
import signal
from pathlib import Path
from typing import Any

from faust import StreamT

from esper.topics.bus import Bus, create_topics_from, read_topic
from esper.topics.catalog import TopicSpec
from esper.workers.faust.app import bytes_table, make_app, raw_topic, run
from esper.workers.faust.guards import process_in_order
from tests.waiting import TIMEOUT_S


def test_a_confirmed_write_is_on_the_changelog(kafka: Any, tmp_path: Path) -> None:
    name = f"confirmed-{secrets.token_hex(4)}"
    servers = kafka.bootstrap_servers
    changelog = f"{name}-kept-changelog"
    create_topics_from(servers, [TopicSpec(name, 1, ()), TopicSpec(changelog, 1, ())])
    app = make_app(name, bootstrap_servers=servers, data_dir=tmp_path)
    app.conf.producer_linger = 3.0  # an unconfirmed write arrives after the read below
    table = bytes_table(app, "kept", 1)
    found: list[bytes | None] = []

    @app.agent(raw_topic(app, name))
    async def agent(stream: StreamT[bytes]) -> None:
        async def keep(event: Any) -> None:
            table[event.key] = event.value
            await table.confirmed()
            # A write that is missing now would be lost by a kill now.
            records = await asyncio.to_thread(read_topic, servers, changelog)
            found.extend(record.value for record in records)
            os.kill(os.getpid(), signal.SIGTERM)

        await process_in_order(stream, keep)

    bus = Bus.connect(servers, source="/esper/test")
    bus.send(name, b"key", b"value").result(timeout=TIMEOUT_S)
    bus.close()
    assert run(app, topics={name: 1}) == 0
    assert found == [b"value"]
