"""Publish blueprints to `blueprint-submitted`."""

from collections.abc import Iterable

from esper.settings import Settings
from esper.topics.bus import Bus, RecordPosition
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.topics.models import Blueprint

CONFIRM_TIMEOUT_S = 30


def publish_blueprints(settings: Settings, blueprints: Iterable[Blueprint]) -> list[RecordPosition]:
    """Publish blueprints; return the topic position of each, in their order.

    Raises:
        BrokerUnreachable: no broker answers.
    """
    bus = Bus.connect(settings.kafka, source="/esper/submit")
    try:
        sent = [bus.publish(BLUEPRINT_SUBMITTED, blueprint) for blueprint in blueprints]
        return [future.result(timeout=CONFIRM_TIMEOUT_S) for future in sent]
    finally:
        bus.close()
