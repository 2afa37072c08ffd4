"""Connecting a client of the Kafka library: quickly, or with one error that says what to do."""

import asyncio
import logging
from typing import Protocol

from aiokafka.errors import KafkaConnectionError

from esper.topics.bus.errors import BrokerUnreachable

CONNECT_TIMEOUT_S = 5.0

# The library writes a line for every failed attempt. Where the program has set up no logging
# those would end up on stderr; our own errors and warnings say the same, once.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


class Client(Protocol):
    """What all clients of the library have in common."""

    async def start(self) -> None:
        """Connect."""


async def connect(client: Client, bootstrap_servers: str) -> None:
    """Start a client; the caller stops it, also after an error.

    Raises:
        BrokerUnreachable: no broker answered within five seconds, or the address is none.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.start()
    except (KafkaConnectionError, TimeoutError, ValueError) as error:
        raise BrokerUnreachable(bootstrap_servers) from error
