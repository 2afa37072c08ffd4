"""Answer the requests that users make of a run: carry out each one, or say why not."""

from collections.abc import Iterator

from esper.orchestrator.view import DecisionPlan
from esper.topics.models import (
    Cull,
    Fossilize,
    Operation,
    RequestKind,
    RunRequest,
    SeedReport,
    SeedState,
    SeedStatus,
)

GROWING = frozenset({SeedState.BLENDING, SeedState.ACTIVE})


def answer_requests(report: SeedReport) -> Iterator[DecisionPlan]:
    """Yield one plan per request of a report: its operations, or the reason for having none."""
    for request in report.requests:
        yield _answer(request, report)


def _answer(request: RunRequest, report: SeedReport) -> DecisionPlan:
    requested = f"asked for by hand: {request.as_command}"
    if request.site is None:
        return DecisionPlan((), requested, request.request_id)
    seeds = [
        seed
        for seed in report.seeds
        if seed.site == request.site and request.slot in (None, seed.slot)
    ]
    # A request for a whole site skips the seeds that it cannot apply to.
    possible = [seed for seed in seeds if _why_not(request, seed) is None]
    if possible:
        operations = tuple(_operation(request.kind, seed) for seed in possible)
        return DecisionPlan(operations, requested, request.request_id)
    reasons = [reason for seed in seeds if (reason := _why_not(request, seed))]
    where = f"{request.site}" + ("" if request.slot is None else f"/{request.slot}")
    why = "; ".join(reasons) or f"nothing is planted at {where}"
    return DecisionPlan((), f"{requested}; not done: {why}", request.request_id)


def _why_not(request: RunRequest, seed: SeedStatus) -> str | None:
    """Return why a request cannot apply to a seed; None where it can."""
    if seed.kernel_id is None or seed.state not in GROWING:
        return f"{seed.site}/{seed.slot} is {seed.state}"
    if request.kind is RequestKind.KEEP and seed.state is not SeedState.ACTIVE:
        return f"{seed.site}/{seed.slot} is {seed.state}, and only what is active can be kept"
    return None


def _operation(kind: RequestKind, seed: SeedStatus) -> Operation:
    operation = Cull if kind is RequestKind.CULL else Fossilize
    assert seed.kernel_id is not None
    return operation(site=seed.site, slot=seed.slot, kernel_id=seed.kernel_id)
