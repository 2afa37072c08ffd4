"""The rows of the planner's tables, and the plan that they hold."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import structlog

from esper.blueprint import ANONYMOUS, BlueprintRejected, Submission
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Blueprint, Event, TrainingRun
from esper.workers.compile.plan import OpenRun, Plan

log = structlog.get_logger()

E = TypeVar("E", bound=Event)


class PlannedBlueprint(Event):
    """A blueprint, or without one the mark of a withdrawal.

    `order` is the offset of the record with which its id was first submitted.
    """

    order: int
    publisher: str
    blueprint: Blueprint | None = None


class PlannedRun(Event):
    """An open run, and when it was last announced, in milliseconds since the epoch."""

    seen_ms: int
    run: TrainingRun


def restored_plan(blueprints: Mapping[bytes, bytes], runs: Mapping[bytes, bytes]) -> Plan:
    """Return the plan of the tables; rows of another version are logged and skipped."""
    plan = Plan()
    rows = dict(_rows(blueprints, _blueprint_row))
    for blueprint_id, row in sorted(rows.items(), key=lambda entry: (entry[1].order, entry[0])):
        if row.blueprint is None:
            plan.withdraw(blueprint_id)
            continue
        try:
            plan.submit(Submission(row.blueprint, row.publisher))
        except BlueprintRejected as error:
            log.warning("blueprint skipped", blueprint=blueprint_id, why=error.message)
    for _, opened in _rows(runs, _run_row):
        plan.open(OpenRun(opened.run, opened.seen_ms))
    return plan


def first_order(row: bytes | None, offset: int) -> int:
    """Return the order of a blueprint whose row is replaced by the record at an offset."""
    if row is None:
        return offset
    try:
        known = decode(PlannedBlueprint, row)
    except Undecodable:
        return 0  # A row without an order is from before all that have one.
    return offset if known.blueprint is None else known.order


def _rows(table: Mapping[bytes, bytes], read: Callable[[bytes], E]) -> Iterator[tuple[str, E]]:
    for key, value in list(table.items()):
        try:
            yield key.decode(), read(value)
        except Undecodable as error:
            log.warning("table value skipped", key=key, why=str(error))


def _blueprint_row(value: bytes) -> PlannedBlueprint:
    try:
        return decode(PlannedBlueprint, value)
    except Undecodable:  # a row of an earlier version: the blueprint alone
        return PlannedBlueprint(order=0, publisher=ANONYMOUS, blueprint=decode(Blueprint, value))


def _run_row(value: bytes) -> PlannedRun:
    try:
        return decode(PlannedRun, value)
    except Undecodable:  # a row of an earlier version: the run alone
        return PlannedRun(seen_ms=time.time_ns() // 1_000_000, run=decode(TrainingRun, value))
