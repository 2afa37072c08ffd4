"""The only door to Kafka: publish, follow, read, and see to the topics.

`Bus` serves threads (the trainer, the command line); `Publisher` serves an event loop (the
workers). Nothing else in the project imports a Kafka client.
"""

from esper.topics.bus.admin import create_topics, describe
from esper.topics.bus.client import Bus, Start
from esper.topics.bus.errors import BrokerUnreachable, BusError, TopicMismatch, Unpublishable
from esper.topics.bus.publisher import Position, Publisher, Traced
from esper.topics.bus.reader import Span, find, read
from esper.topics.bus.record import Record

__all__ = [
    "BrokerUnreachable",
    "Bus",
    "BusError",
    "Position",
    "Publisher",
    "Record",
    "Span",
    "Start",
    "TopicMismatch",
    "Traced",
    "Unpublishable",
    "create_topics",
    "describe",
    "find",
    "read",
]
