"""Fuse several ops into one torch op, with fewer calls and fewer saved values."""

from esper.compiler.passes.rewrite import readers, without
from esper.kernel import FIRST_STEP_SLOT, KernelPlan, PlanStep

HALVES = 2


def fuse_glu(plan: KernelPlan) -> KernelPlan:
    """Return the plan with `half * sigmoid(other half)` fused into one `glu`."""
    counts = readers(plan)
    steps = list(plan.steps)
    gone: dict[int, int] = {}
    for at, step in enumerate(plan.steps):
        if step.op != "mul":
            continue
        for content, gate in (step.inputs, step.inputs[::-1]):
            if (found := _halves(plan, counts, content, gate)) is None:
                continue
            whole, dim, parts = found
            steps[at] = step.model_copy(
                update={"op": "glu", "inputs": (whole,), "args": {"dim": dim}}
            )
            gone.update((slot, whole) for slot in parts)
            break
    return without(plan, gone, steps) if gone else plan


def _halves(
    plan: KernelPlan, counts: list[int], content: int, gate: int
) -> tuple[int, int, tuple[int, int, int]] | None:
    """Return the input slot, its dim and the three fused slots of a GLU; None if it is no GLU."""
    first, sigmoid = _step(plan, content), _step(plan, gate)
    if first is None or sigmoid is None or sigmoid.op != "sigmoid":
        return None
    second = _step(plan, sigmoid.inputs[0])
    slots = (content, gate, sigmoid.inputs[0])
    if second is None or any(counts[slot] != 1 for slot in slots):
        return None
    if first.op != "chunk" or second.op != "chunk" or first.inputs != second.inputs:
        return None
    halves = {"parts": HALVES, "dim": first.args["dim"]}
    if first.args != {**halves, "index": 0} or second.args != {**halves, "index": 1}:
        return None
    dim = first.args["dim"]
    assert isinstance(dim, int)
    return first.inputs[0], dim, slots


def _step(plan: KernelPlan, slot: int) -> PlanStep | None:
    """Return the step that fills a slot; None for `x` and `h`."""
    return plan.steps[slot - FIRST_STEP_SLOT] if slot >= FIRST_STEP_SLOT else None
