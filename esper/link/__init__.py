"""The process beside a trainer that speaks to Kafka and to the kernel store for it.

Kafka's client, hashing and verifying hold Python's interpreter, and a training step in the same
process would wait for them. So they have a process of their own, without torch. In, from the
trainer: a run and its reports. Out: what can be planted, decisions, and their kernels' bytes.
"""

from esper.link.catalogue import Missing
from esper.link.client import LinkClient, LinkRefused
from esper.link.config import LinkConfig
from esper.link.frames import AUDITIONS, Frame, FrameReader, Kind
from esper.link.resumption import RecordUnfit, Resumption, closed_by

__all__ = [
    "AUDITIONS",
    "Frame",
    "FrameReader",
    "Kind",
    "LinkClient",
    "LinkConfig",
    "LinkRefused",
    "Missing",
    "RecordUnfit",
    "Resumption",
    "closed_by",
]
