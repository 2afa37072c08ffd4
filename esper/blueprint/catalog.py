"""The blueprints that ship with Esper: one JSON file per blueprint under `catalog/`."""

from functools import cache
from importlib.resources import files

from esper.topics.codec import decode
from esper.topics.models import Blueprint


@cache
def shipped() -> tuple[Blueprint, ...]:
    """Return the shipped blueprints, ordered by id."""
    folder = files("esper.blueprint").joinpath("catalog")
    read = (decode(Blueprint, entry.read_bytes()) for entry in folder.iterdir())
    return tuple(sorted(read, key=lambda blueprint: blueprint.blueprint_id))


def shipped_named(blueprint_id: str) -> Blueprint:
    """Return one shipped blueprint.

    Raises:
        KeyError: no shipped blueprint has this id; the message lists the known ids.
    """
    for blueprint in shipped():
        if blueprint.blueprint_id == blueprint_id:
            return blueprint
    known = ", ".join(blueprint.blueprint_id for blueprint in shipped())
    raise KeyError(f"no shipped blueprint {blueprint_id!r}; the shipped ones are {known}")
