"""The only door to Kafka: produce, consume and read records, and create the topics.

`Bus` serves threads (the trainer, the command line); `Producer` serves an event loop (the workers).
Events and bytes go in and records come out. No other package imports a Kafka client.
"""

from esper.topics.bus.admin import (
    create_topics,
    create_topics_from,
    delete_records,
    partition_counts,
    require_access,
)
from esper.topics.bus.bus import Bus, Received, StartOffset, Subscription
from esper.topics.bus.consumer import OffsetRange, find_record, partition_of, read_topic
from esper.topics.bus.diagnosis import refusal_in, refused
from esper.topics.bus.errors import (
    AccessDenied,
    BrokerUnreachable,
    BusError,
    ConnectionRefused,
    RecordTooLarge,
    TlsFileUnusable,
    TopicMismatch,
)
from esper.topics.bus.follower import Follower
from esper.topics.bus.producer import Producer, RecordPosition, TracedEvent
from esper.topics.bus.record import Record
from esper.topics.bus.security import client_options, ssl_context
from esper.topics.bus.unreadable import read_past_unreadable_records

__all__ = [
    "AccessDenied",
    "BrokerUnreachable",
    "Bus",
    "BusError",
    "ConnectionRefused",
    "Follower",
    "OffsetRange",
    "Producer",
    "Received",
    "Record",
    "RecordPosition",
    "RecordTooLarge",
    "StartOffset",
    "Subscription",
    "TlsFileUnusable",
    "TopicMismatch",
    "TracedEvent",
    "client_options",
    "create_topics",
    "create_topics_from",
    "delete_records",
    "find_record",
    "partition_counts",
    "partition_of",
    "read_past_unreadable_records",
    "read_topic",
    "refusal_in",
    "refused",
    "require_access",
    "ssl_context",
]
