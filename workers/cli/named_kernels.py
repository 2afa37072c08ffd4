"""Which kernels are named: by announcements, by decisions of runs, and by files of lineages."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from esper.errors import EsperError
from esper.topics.connection import Broker

LINEAGE_FILES: Final = ("lineage.json", "*.jsonl")
"""Files of exported networks, and exported histories."""

# Any mention of an id keeps a kernel, also in a record that this version cannot decode.
_KERNEL_ID: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class NothingAnnounced(EsperError):
    """The broker knows no kernel, so that every kernel of the store would be garbage."""


def named_kernels(broker: Broker, folders: Iterable[Path]) -> set[str]:
    """Return the ids of all kernels named by the broker's records and the files in `folders`.

    Raises:
        BusError: the broker's records cannot be read.
        NothingAnnounced: no kernel was ever announced there.
    """
    from esper.topics.bus import read_topic
    from esper.topics.catalog import ADAPTATION_DECISION, DECISION_CANDIDATES, KERNEL_READY

    announced = _ids(record.value for record in read_topic(broker, KERNEL_READY.name))
    if not announced:
        raise NothingAnnounced(
            f"no kernel is announced on {KERNEL_READY.name} of this broker, so that every "
            "kernel of the store would be deleted; set KAFKA_BOOTSTRAP_SERVERS to the broker of "
            "this store"
        )
    decisions = [
        record
        for topic in (ADAPTATION_DECISION, DECISION_CANDIDATES)
        for record in read_topic(broker, topic.name)
    ]
    files = {
        file
        for folder in folders
        for pattern in LINEAGE_FILES
        for file in folder.rglob(pattern)
        if file.is_file()
    }
    return (
        announced
        | _ids(record.value for record in decisions)
        | _ids(file.read_bytes() for file in files)
    )


def _ids(texts: Iterable[bytes | None]) -> set[str]:
    return {found.decode() for text in texts for found in _KERNEL_ID.findall(text or b"")}
