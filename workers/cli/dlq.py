"""`esper dlq`: the dead letters, which are records that no worker could process."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from esper.errors import EsperError
from esper.settings import Settings
from esper.workers.cli.output import Json, age, console, print_json, print_table

if TYPE_CHECKING:
    from esper.topics.bus import Record

app = typer.Typer(
    help="Dead letters: records that no worker could process, kept for 30 days.",
    no_args_is_help=True,
)

MAX_SHOWN_BYTES: Final = 4096
TIMEOUT_S: Final = 30.0
CUT_HEADERS: Final = ("dlq-value-bytes", "dlq-key-bytes")

TopicName = Annotated[
    str, typer.Argument(help="The topic of the original records, such as blueprint-submitted.")
]
Offset = Annotated[int, typer.Argument(min=0, help="Offset of the dead letter; see `list`.")]


class DeadLetterUnusable(EsperError):
    """A dead letter does not exist, or cannot be sent again."""


@app.command("list")
def list_letters(
    topic: Annotated[
        str | None, typer.Argument(help="A topic's name. Default: all topics.")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="Show the last N of each topic.")] = 20,
    json: Json = False,
) -> None:
    """Show dead letters: where each came from, and why it could not be processed."""
    facts = [
        _facts(name, letter)
        for name in ([topic] if topic else _topic_names())
        for letter in _letters(name)[-last:]
    ]
    if json:
        print_json(facts)
    elif not facts:
        console.print("no dead letters")
    else:
        columns = ("topic", "offset", "age", "origin", "bytes", "reason")
        print_table(columns, [[fact[column] for column in columns] for fact in facts])


@app.command("show")
def show(
    topic: TopicName,
    offset: Offset,
    raw: Annotated[bool, typer.Option("--raw", help="Write the value's bytes alone.")] = False,
    json: Json = False,
) -> None:
    """Show one dead letter: reason, headers, key and value."""
    letter = _letter(topic, offset, _letters(topic))
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        return
    headers = {name: _text(value) for name, value in letter.headers}
    details = {"key": _text(letter.key), "headers": headers, "value": _text(letter.value)}
    if json:
        print_json(_facts(topic, letter) | details)
        return
    for name, value in {**_facts(topic, letter), "key": details["key"]}.items():
        console.print(f"{name}: {value}", soft_wrap=True, markup=False)
    for name, text in headers.items():
        console.print(f"header {name}: {text}", soft_wrap=True, markup=False)
    console.print(_text(letter.value, MAX_SHOWN_BYTES), soft_wrap=True, markup=False)


@app.command("replay")
def replay(
    topic: TopicName,
    offsets: Annotated[
        list[int] | None, typer.Argument(help="Offsets of dead letters; see `list`.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Send all that can be sent.")] = False,
) -> None:
    """Send dead letters to their topic again, after the cause is removed.

    Their dead letters stay; `purge` removes them.
    """
    from esper.topics.bus import Bus
    from esper.topics.catalog import is_partitioned_by_key

    if not is_partitioned_by_key(topic):
        raise DeadLetterUnusable(
            f"{topic}: only compile workers and `esper kernel sign-again` announce kernels"
        )
    if every == bool(offsets):
        raise typer.BadParameter("give offsets, or --all")
    if every:
        chosen = [letter for letter in _letters(topic) if _obstacle(letter) is None]
    else:
        letters = _letters(topic)
        chosen = [_letter(topic, offset, letters) for offset in offsets or ()]
    for letter in chosen:
        if (why := _obstacle(letter)) is not None:
            raise DeadLetterUnusable(f"dead letter {letter.offset} of {topic}: {why}")
    bus = Bus.connect(Settings().kafka, source="/esper/cli")
    try:
        for letter in chosen:
            sent = bus.send(topic, letter.key, letter.value or b"").result(TIMEOUT_S)
            console.print(f"{letter.offset} is now {sent.topic}[{sent.partition}]@{sent.offset}")
    finally:
        bus.close()
    console.print(f"{len(chosen)} sent again")


@app.command("purge")
def purge(
    topic: TopicName,
    before: Annotated[
        int | None, typer.Option(min=1, help="Delete those below this offset. Default: all.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the dead letters of a topic."""
    from esper.topics.bus import delete_records

    letters = [one for one in _letters(topic) if before is None or one.offset < before]
    if not letters:
        console.print(f"{topic}: no dead letters")
        return
    if not yes:
        typer.confirm(f"delete {len(letters)} dead letters of {topic}?", abort=True)
    end = letters[-1].offset + 1
    delete_records(Settings().kafka, letters[0].topic, end)
    console.print(f"{topic}: {len(letters)} dead letters deleted")


def _topic_names() -> Iterator[str]:
    from esper.topics.catalog import TOPICS

    return (topic.name for topic in TOPICS)


def _letters(topic: str) -> "list[Record]":
    from esper.topics.bus import read_topic
    from esper.topics.catalog import TOPICS

    known = {entry.name: entry.dead_letters for entry in TOPICS}
    if topic not in known:
        raise DeadLetterUnusable(f"there is no topic {topic!r}; topics are: {', '.join(known)}")
    return read_topic(Settings().kafka, known[topic])


def _letter(topic: str, offset: int, letters: "list[Record]") -> "Record":
    for letter in letters:
        if letter.offset == offset:
            return letter
    raise DeadLetterUnusable(
        f"{topic} has no dead letter at offset {offset}; see `esper dlq list {topic}`"
    )


def _obstacle(letter: "Record") -> str | None:
    """Return why a dead letter cannot be sent again; None if it can."""
    headers = dict(letter.headers)
    if any(name in headers for name in CUT_HEADERS):
        place = f"{_text(headers['dlq-topic'])}[{_text(headers['dlq-partition'])}]"
        return f"it is not whole; read the original at {place}@{_text(headers['dlq-offset'])}"
    if not letter.value:
        return "it has no value"
    return None


def _facts(topic: str, letter: "Record") -> dict[str, Any]:
    headers = {name: _text(value) for name, value in letter.headers}
    partition, offset = headers.get("dlq-partition", "?"), headers.get("dlq-offset", "?")
    return {
        "topic": topic,
        "offset": letter.offset,
        "age": age(time.time() - letter.timestamp_ms / 1000),
        "origin": f"[{partition}]@{offset}",
        "bytes": int(headers.get("dlq-value-bytes", len(letter.value or b""))),
        "reason": headers.get("dlq-reason", ""),
    }


def _text(value: bytes | None, limit: int | None = None) -> str:
    """Return bytes as text, indented if they are JSON; other bytes are escaped."""
    if value is None:
        return ""
    with suppress(orjson.JSONDecodeError):
        value = orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2)
    text = value[:limit].decode("utf-8", "backslashreplace")
    # A terminal would act on control characters.
    shown = (char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
    printable = "".join(shown)
    return printable if limit is None or len(value) <= limit else f"{printable} …"
