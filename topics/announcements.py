"""The last announcement of each kernel on `kernel-ready`."""

import logging
from collections.abc import Iterable, Iterator

from esper.topics.bus import Record, read_topic
from esper.topics.catalog import KERNEL_READY, partition_key
from esper.topics.codec import Undecodable, decode
from esper.topics.connection import Broker
from esper.topics.models import KernelReady, SiteSignature

log = logging.getLogger("esper")


def partition_keys_of(signatures: Iterable[SiteSignature]) -> list[bytes]:
    """Return the partition keys of the announcements of kernels for some sites."""
    return sorted({partition_key(signature) for signature in signatures})


def announcement_records(
    broker: Broker,
    *,
    signatures: Iterable[SiteSignature] | None = None,
    withdrawn: bool = False,
) -> list[Record]:
    """Return the record of the last announcement of each kernel.

    With `signatures`, read only their partitions; these have kernels for other sites too.
    Withdrawn kernels are left out; with `withdrawn`, each has the announcement before its
    withdrawal until the topic is compacted.

    Raises:
        BusError: the broker's records cannot be read.
    """
    partition_keys = None if signatures is None else partition_keys_of(signatures)
    last: dict[bytes | None, Record] = {}
    for record in read_topic(broker, KERNEL_READY.name, partition_keys=partition_keys):
        if record.value is not None:
            last[record.key] = record
        elif not withdrawn:
            last.pop(record.key, None)
    return list(last.values())


def announced_kernels(
    broker: Broker,
    *,
    signatures: Iterable[SiteSignature] | None = None,
    withdrawn: bool = False,
) -> Iterator[KernelReady]:
    """Yield the last announcement of each kernel; log and skip those that cannot be decoded.

    See `announcement_records`.
    """
    for record in announcement_records(broker, signatures=signatures, withdrawn=withdrawn):
        try:
            yield decode(KernelReady, record.value)
        except Undecodable as error:
            log.error("%s cannot be decoded: %s", record.place, error)
