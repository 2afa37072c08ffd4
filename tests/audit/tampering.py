"""Changes that an attacker can make to an exported history file, from simple to careful."""

from dataclasses import replace

from esper.audit import RunRecords
from esper.topics.bus import Record
from esper.topics.codec import sha256_of

Records = tuple[Record, ...]


def with_value(record: Record, value: bytes) -> Record:
    """Return the record with another value and the old event id."""
    return replace(record, value=value)


def forged(record: Record, value: bytes) -> Record:
    """Return the record with another value and the matching event id."""
    headers = tuple(
        (name, sha256_of(value).encode() if name == "ce_id" else text)
        for name, text in record.headers
    )
    return replace(record, value=value, headers=headers)


def bare(history: RunRecords) -> RunRecords:
    """Return the records without headers, as other Kafka clients may write them."""
    return replace(
        history,
        reports=tuple(replace(record, headers=()) for record in history.reports),
        decisions=tuple(replace(record, headers=()) for record in history.decisions),
    )


def changed(records: Records, index: int, record: Record) -> Records:
    """Return the records with the one at an index replaced."""
    return (*records[:index], record, *records[index + 1 :])


def without(records: Records, index: int) -> Records:
    """Return the records without the one at an index."""
    return records[:index] + records[index + 1 :]


def swapped(records: Records, index: int) -> Records:
    """Return the records with the one at an index and the next exchanged."""
    first, second = records[index : index + 2]
    return (*records[:index], second, first, *records[index + 2 :])


def swapped_places(records: Records, index: int) -> Records:
    """Return the records exchanged as by `swapped`, with ascending offsets."""
    first, second = records[index : index + 2]
    return (
        *records[:index],
        replace(second, offset=first.offset),
        replace(first, offset=second.offset),
        *records[index + 2 :],
    )


def one_digit_more(value: bytes) -> bytes:
    """Raise the first digit of the loss in a report by one (nine becomes zero)."""
    at = value.index(b'"probe_loss":') + len(b'"probe_loss":')
    digit = b"%d" % ((int(value[at : at + 1]) + 1) % 10)
    return value[:at] + digit + value[at + 1 :]
