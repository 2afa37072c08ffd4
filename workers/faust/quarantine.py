"""Failures that belong to one record: retried once, then dead-lettered; the worker continues.

A failure of the infrastructure belongs to no record: it is raised, and the record is read again.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from faust import EventT

from esper.store import StoreUnavailable
from esper.topics.bus import AccessDenied, BrokerUnreachable, ConnectionRefused, Producer
from esper.workers.faust.dead_letters import DlqReason, record_of, send_to_dlq
from esper.workers.faust.guards import ChangelogUnconfirmed, Handle

log = structlog.get_logger()

INFRASTRUCTURE: Final = (
    AccessDenied,
    BrokerUnreachable,
    ChangelogUnconfirmed,
    ConnectionRefused,
    StoreUnavailable,
)
"""Errors of a broker or store that is away, or that refuses this worker."""

ATTEMPTS: Final = 2


async def attempt(
    work: Callable[[], Awaitable[None]], passing: tuple[type[Exception], ...] = INFRASTRUCTURE
) -> Exception | None:
    """Await `work`, a second time if it fails; return the error of the second failure.

    Errors of the types in `passing` are raised.
    """
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            await work()
        except passing:
            raise
        except Exception as error:
            log.exception("a record could not be processed")
            failure = error
        else:
            return None
    return failure


def described(error: Exception) -> str:
    """Return an error's class and message, as reasons on dead letters give it."""
    return f"{type(error).__name__}: {error}"


def quarantined(handle: Handle, producer: Producer) -> Handle:
    """Return a handler that dead-letters the records that `handle` cannot process."""

    async def handle_or_dead_letter(event: EventT[bytes]) -> None:
        error = await attempt(lambda: handle(event))
        if error is not None:
            await send_to_dlq(record_of(event), DlqReason.FAILED, described(error), producer)

    return handle_or_dead_letter
