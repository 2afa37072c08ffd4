"""A table whose changelog can be waited for."""

import asyncio
from typing import Any

import faust
from faust.types.tuples import FutureMessage


class ConfirmedTable(faust.Table[bytes, bytes]):
    """A table of bytes by bytes that knows which of its writes the broker has not confirmed.

    Faust commits the offset of a record whether or not its table writes have arrived. A crash in
    between would leave a table that is older than the offset, and reports missing from its fold.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unconfirmed: list[FutureMessage] = []

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Send one write to the changelog, and remember that it is under way."""
        sent = super().send_changelog(*args, **kwargs)
        self._unconfirmed.append(sent)
        return sent

    async def confirmed(self) -> None:
        """Return when the broker has every write so far; call it before acknowledging a record."""
        sent = list(self._unconfirmed)
        if sent:
            # Whoever is cancelled here must not cancel the writes, nor forget that they count.
            await asyncio.wait(sent)
        for write in sent:
            write.result()
        del self._unconfirmed[: len(sent)]
