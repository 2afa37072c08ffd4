"""What an attacker with the exported file can do to it, from the clumsy to the careful."""

from dataclasses import replace

from esper.audit import RunRecords
from esper.topics.bus import Record
from esper.topics.codec import sha256_of

Records = tuple[Record, ...]


def with_value(record: Record, value: bytes) -> Record:
    """The record with another value; its headers still tell the digest of the old one."""
    return replace(record, value=value)


def forged(record: Record, value: bytes) -> Record:
    """The record with another value, and with the event id that goes with it."""
    headers = tuple(
        (name, sha256_of(value).encode() if name == "ce_id" else text)
        for name, text in record.headers
    )
    return replace(record, value=value, headers=headers)


def bare(history: RunRecords) -> RunRecords:
    """The history without any headers, as clients that are not ours would write it."""
    return replace(
        history,
        reports=tuple(replace(record, headers=()) for record in history.reports),
        decisions=tuple(replace(record, headers=()) for record in history.decisions),
    )


def changed(records: Records, index: int, record: Record) -> Records:
    """The records with another one in place of one of them."""
    return (*records[:index], record, *records[index + 1 :])


def without(records: Records, index: int) -> Records:
    """The records with one of them dropped."""
    return records[:index] + records[index + 1 :]


def swapped(records: Records, index: int) -> Records:
    """The records with one of them and the next in each other's place."""
    first, second = records[index : index + 2]
    return (*records[:index], second, first, *records[index + 2 :])


def swapped_places(records: Records, index: int) -> Records:
    """Like `swapped`, but the offsets rise as they should."""
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
