"""A Faust table that can wait until the broker has its changelog records."""

import asyncio
from typing import Any

import faust
from faust.types.tuples import FutureMessage

from esper.errors import EsperError


class ChangelogUnconfirmed(EsperError):
    """The broker did not confirm a table write: its records must be read again."""


class ConfirmedTable(faust.Table[bytes, bytes]):
    """A bytes-to-bytes table that tracks which changelog records the broker has not confirmed.

    Faust commits a record's offset even if its table writes have not arrived. After a crash in
    between, the restored table would be older than the committed offset, and the reports in the
    gap would be missing from its fold.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unconfirmed: list[FutureMessage] = []

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Send one write to the changelog topic and track it until it is confirmed."""
        sent = super().send_changelog(*args, **kwargs)
        self._unconfirmed.append(sent)
        return sent

    async def confirmed(self) -> None:
        """Wait until the broker has all writes so far; call this before acknowledging a record.

        Raises:
            ChangelogUnconfirmed: the broker refused or lost a write.
        """
        sent = list(self._unconfirmed)
        if sent:
            # asyncio.wait: cancelling this call must neither cancel the writes nor drop them here.
            await asyncio.wait(sent)
        del self._unconfirmed[: len(sent)]
        for write in sent:
            if (error := write.exception()) is not None:
                raise ChangelogUnconfirmed(f"{self.changelog_topic_name}: {error}") from error
