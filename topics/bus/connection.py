"""Connect a client of the Kafka library within a few seconds, or raise one error."""

import asyncio
import logging
from typing import Protocol

from aiokafka.errors import KafkaConnectionError

from esper.topics.bus.diagnosis import why_unconnected
from esper.topics.bus.errors import BrokerUnreachable
from esper.topics.connection import Broker

CONNECT_TIMEOUT_S = 5.0

# The library logs every failed attempt, to stderr if the program has not configured logging. Our
# errors and warnings report the same once.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


class Client(Protocol):
    """The common method of the library's clients."""

    async def start(self) -> None:
        """Connect."""


async def connect(client: Client, broker: Broker) -> None:
    """Start a client; the caller must stop it, also after an error.

    Raises:
        BrokerUnreachable: no broker answered within `CONNECT_TIMEOUT_S`, or the address is invalid.
        ConnectionRefused: a broker answered, and TLS or the log-in failed.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.start()
    except TimeoutError as error:
        raise BrokerUnreachable(broker) from error
    except (KafkaConnectionError, ValueError) as error:
        raise (await why_unconnected(broker)) from error
