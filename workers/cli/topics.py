"""`esper topics`: create, list and tail the Kafka topics."""

import queue
import sys
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from esper.settings import Settings
from esper.workers.cli.acl import acl
from esper.workers.cli.interrupts import interruptible
from esper.workers.cli.output import Json, console, print_json, print_table

if TYPE_CHECKING:
    from esper.topics.bus import Record

app = typer.Typer(help="The Kafka topics of Esper.", no_args_is_help=True)
app.command("acl")(acl)


@app.command("create")
def create(
    replication_factor: Annotated[
        int, typer.Option(min=1, help="Replicas of each partition; 3 in production.")
    ] = 1,
) -> None:
    """Create missing topics: the catalog, its dead letter topics and the tables' changelogs."""
    from esper.topics.bus import create_topics

    created = create_topics(Settings().kafka, replication_factor=replication_factor)
    console.print(f"{len(created)} created" if created else "all topics exist")


@app.command("list")
def list_topics(json: Json = False) -> None:
    """Show the topics: content, key, partitions and retention."""
    from esper.topics.catalog import TOPICS

    rows = [
        (topic.name, topic.key, topic.partitions, topic.cleanup.value, topic.summary)
        for topic in TOPICS
    ]
    columns = ("topic", "key", "partitions", "cleanup", "carries")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)


@app.command("tail")
def tail(
    topic: Annotated[str, typer.Argument(help="A topic's name; see `esper topics list`.")],
    key: Annotated[str | None, typer.Option(help="Print only records with this key.")] = None,
    beginning: Annotated[
        bool, typer.Option(help="Start at the first record instead of now.")
    ] = False,
    count: Annotated[
        int, typer.Option(min=0, help="Exit after this number of records; 0: never.")
    ] = 0,
) -> None:
    """Print records as they arrive, as one JSON line each, until Ctrl-C."""
    from esper.topics.bus import Bus, StartOffset

    arrived: queue.SimpleQueue[Record] = queue.SimpleQueue()
    bus = Bus.connect(Settings().kafka, source="/esper/cli")
    try:
        bus.consume(
            topic,
            arrived.put,
            key=key.encode() if key is not None else None,
            start=StartOffset.EARLIEST if beginning else StartOffset.LATEST,
        )
        shown = 0
        with interruptible():
            while count == 0 or shown < count:
                _print_record(arrived.get())
                shown += 1
    except KeyboardInterrupt:
        pass
    finally:
        bus.close()


def _print_record(record: "Record") -> None:
    value: object
    try:
        value = orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError:
        value = (record.value or b"").decode("utf-8", "backslashreplace")
    line = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": (record.key or b"").decode("utf-8", "backslashreplace"),
        "value": value,
    }
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()
