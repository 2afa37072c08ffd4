"""Publish blueprints to `blueprint-submitted`, and withdraw them."""

from collections.abc import Iterable

from esper.blueprint import Submissions
from esper.errors import EsperError
from esper.settings import Settings
from esper.topics.bus import Bus, RecordPosition, read_topic
from esper.topics.catalog import BLUEPRINT_SUBMITTED
from esper.topics.models import Blueprint

CONFIRM_TIMEOUT_S = 30


class UnknownBlueprint(EsperError, ValueError):
    """No blueprint of an id stands."""


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


def withdraw_blueprints(settings: Settings, blueprint_ids: Iterable[str]) -> list[RecordPosition]:
    """Publish a tombstone for each blueprint; return their topic positions, in order.

    Raises:
        UnknownBlueprint: a blueprint was not published, or is withdrawn; nothing is published then.
        BrokerUnreachable: no broker answers.
    """
    chosen = list(blueprint_ids)
    standing = Submissions()
    for record in read_topic(settings.kafka, BLUEPRINT_SUBMITTED.name):
        standing.read(record.key, record.value, record.headers)
    if unknown := [one for one in chosen if standing.get(one) is None]:
        raise UnknownBlueprint(
            f"blueprint {unknown[0]!r} is not published; "
            "`esper topics tail blueprint-submitted --beginning` shows those that are"
        )
    bus = Bus.connect(settings.kafka, source="/esper/submit")
    try:
        sent = [bus.send(BLUEPRINT_SUBMITTED.name, one.encode(), None) for one in chosen]
        return [future.result(timeout=CONFIRM_TIMEOUT_S) for future in sent]
    finally:
        bus.close()
