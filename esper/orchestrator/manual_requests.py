"""What people asked of a run: done where it can be, and answered in any case."""

from collections.abc import Iterator

from esper.orchestrator.plan import DecisionPlan
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


def answers(report: SeedReport) -> Iterator[DecisionPlan]:
    """Yield one plan for each request of a report: what does it, or why it is not done."""
    for request in report.requests:
        yield _answer(request, report)


def _answer(request: RunRequest, report: SeedReport) -> DecisionPlan:
    asked = f"asked for by hand: {request.words}"
    if request.site is None:
        return DecisionPlan((), asked, request.request_id)
    meant = [
        seed
        for seed in report.seeds
        if seed.site == request.site and request.slot in (None, seed.slot)
    ]
    # Of a whole site, what cannot go on is not meant; of one slot, it is what was asked about.
    able = [seed for seed in meant if _why_not(request, seed) is None]
    if able:
        operations = tuple(_operation(request.kind, seed) for seed in able)
        return DecisionPlan(operations, asked, request.request_id)
    reasons = [reason for seed in meant if (reason := _why_not(request, seed))]
    where = f"{request.site}" + ("" if request.slot is None else f"/{request.slot}")
    why = "; ".join(reasons) or f"nothing is planted at {where}"
    return DecisionPlan((), f"{asked}; not done: {why}", request.request_id)


def _why_not(request: RunRequest, seed: SeedStatus) -> str | None:
    if seed.kernel_id is None or seed.state not in GROWING:
        return f"{seed.site}/{seed.slot} is {seed.state}"
    if request.kind is RequestKind.KEEP and seed.state is not SeedState.ACTIVE:
        return f"{seed.site}/{seed.slot} is {seed.state}, and only what is active can be kept"
    return None


def _operation(kind: RequestKind, seed: SeedStatus) -> Operation:
    operation = Cull if kind is RequestKind.CULL else Fossilize
    assert seed.kernel_id is not None
    return operation(site=seed.site, slot=seed.slot, kernel_id=seed.kernel_id)
