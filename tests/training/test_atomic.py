"""A plan is applied whole or not at all, wherever in it something fails."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from esper.kernel import KernelsPrepared
from esper.seed import GradientSynchronizer, Site, Slot, merging
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    Fossilize,
    Operation,
    OutcomeStatus,
    PolicySpec,
    Reweight,
    RunConfig,
    SeedState,
)
from esper.training.decision_queue import DecisionQueue
from esper.training.optimizer import OptimizerMembership
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused, SeedManager
from tests.seed.hosts import images, labels
from tests.seed.kernels import awaken
from tests.training.fault_injection import failing_at
from tests.training.grow_fixture import RUN, MakeOptimizer, Plot, decision, planting

S = SeedState

OPTIMIZERS: Mapping[str, MakeOptimizer] = {
    "adam": lambda model: Adam(model.parameters(), lr=0.01),
    "momentum": lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9),
    "named adamw, two groups": lambda model: AdamW(
        [
            {"params": [pair for pair in model.named_parameters() if "bias" not in pair[0]]},
            {
                "params": [pair for pair in model.named_parameters() if "bias" in pair[0]],
                "weight_decay": 0.0,
            },
        ],
        lr=0.01,
    ),
}

BLUEPRINTS = {
    "fc1": ("gated-linear-unit", "low-rank-skip", "low-rank-skip-wide"),
    "conv": ("identity", "conv-bottleneck", "squeeze-excite"),
}
"""What is planted in each slot; those at fc1 but the first, and the first at conv, can merge."""

SEEDS = [(site, slot) for site in BLUEPRINTS for slot in range(3)]


class Case(NamedTuple):
    """What a plot holds, by seed: "empty", "blending", "active" or "kept"; and what a plan does."""

    optimizer: str
    held: tuple[str, ...]
    plan: tuple[str, ...]
    synchronized: bool


DOES = {
    "empty": ("nothing", "plant"),
    "blending": ("nothing", "cull"),
    "active": ("nothing", "cull", "keep", "reweight"),
    "kept": ("nothing",),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A garden and a plan that is possible in it."""
    held = tuple(draw(st.sampled_from(sorted(DOES))) for _ in SEEDS)
    plan = tuple(draw(st.sampled_from(DOES[state])) for state in held)
    return Case(draw(st.sampled_from(sorted(OPTIMIZERS))), held, plan, draw(st.booleans()))


EVERYTHING = Case(
    "named adamw, two groups",
    ("blending", "active", "empty", "active", "active", "empty"),
    ("cull", "keep", "plant", "cull", "keep", "plant"),
    synchronized=True,
)
"""Every kind of operation: one seed merges into its layer, another is kept beside it."""


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """One process that is a group: gradients pass through the synchronizer."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def plot_of(case: Case) -> Plot:
    """A trained plot, with gradients of a step that is not taken yet."""
    plot = Plot(OPTIMIZERS[case.optimizer])
    if case.synchronized:
        plot.seed_manager.close()
        plot.seed_manager = SeedManager(
            plot.sites,
            OptimizerMembership(plot.optimizer),
            GradientSynchronizer(plot.model, dist.group.WORLD),
        )
    plot.train(1)
    for (site, slot), state in zip(SEEDS, case.held, strict=True):
        if state != "empty":
            ramp = 50 if state == "blending" else 0
            awaken(plot.plant(site, slot, BLUEPRINTS[site][slot], alpha=0.5, ramp_steps=ramp))
    plot.train(2)
    for (site, slot), state in zip(SEEDS, case.held, strict=True):
        if state == "kept":
            plot.fossilize(site, slot)
    F.cross_entropy(plot.model(images(8)), labels(8)).backward()
    return plot


MAKE: Mapping[str, Callable[..., Operation]] = {
    "cull": Cull,
    "keep": Fossilize,
    "reweight": partial(Reweight, alpha=0.75, ramp_steps=5),
}


def plan_of(case: Case, plot: Plot) -> AdaptationDecision:
    operations: list[Operation] = []
    for (site, slot), what in zip(SEEDS, case.plan, strict=True):
        planted = plot.sites[site].slots[slot].planted
        if what == "plant":
            operations.append(planting(plot.sites[site], slot, BLUEPRINTS[site][slot]))
        elif what != "nothing":
            assert planted is not None
            operations.append(MAKE[what](site=site, slot=slot, kernel_id=planted.kernel_id))
    return decision(*operations, name="the plan")


def bits(value: Any) -> Any:
    """A value with each tensor as its bytes, so that equal means bit-equal, NaN or not."""
    if isinstance(value, Tensor):
        data = value.detach().contiguous().view(-1).view(torch.uint8).tolist()
        return str(value.dtype), tuple(value.shape), data
    if isinstance(value, Mapping):
        return [(key, bits(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return value


def everything(plot: Plot) -> dict[str, Any]:
    """All that a plan touches, and the random numbers."""
    synchronizer: Any = plot.seed_manager._synchronizer
    modules = dict(plot.model.named_modules())
    groups = plot.optimizer.param_groups
    return {
        "weights": bits(plot.model.state_dict()),
        "gradients": [(name, bits(each.grad)) for name, each in plot.model.named_parameters()],
        "modules": [(name, id(module)) for name, module in modules.items()],
        "forwards": [name for name, module in modules.items() if "forward" in module.__dict__],
        "trained": [[id(one) for one in group["params"]] for group in groups],
        "settings": [{**group, "params": None} for group in groups],
        "state": {id(one): bits(state) for one, state in plot.optimizer.state.items()},
        "slots": copy.deepcopy([site.slots for site in plot.sites.values()]),
        "blending": [
            (slot.site, slot.index, id(seed)) for slot, seed in plot.seed_manager._blending
        ],
        "random": bits(torch.get_rng_state()),
        "synchronized": [] if synchronizer is None else [id(one) for one in synchronizer._hooks],
        "hooked": [
            len(one._post_accumulate_grad_hooks or {})
            for one in (() if synchronizer is None else synchronizer._hooks)
        ],
        "buckets": []
        if synchronizer is None
        else [[id(one) for one in bucket.parameters] for bucket in synchronizer._buckets],
    }


def assert_the_same(plot: Plot, before: dict[str, Any]) -> None:
    after = everything(plot)
    for what, value in before.items():
        assert after[what] == value, what


def fails_at_every_line(plot: Plot, plan: AdaptationDecision) -> int:
    """Apply a reserved plan with a failure at each line in turn, until it gets by; count them."""
    kernels = plot.kernels_of(plan)
    before = everything(plot)
    for line in itertools.count():
        with failing_at(line) as faults:
            try:
                plot.seed_manager.apply(plan, kernels, plot.step)
            except PlanRefused as refusal:
                assert faults.raised, refusal
        if not faults.raised:
            return line
        assert_the_same(plot, before)
    raise AssertionError


def test_a_plan_that_fails_at_any_line_leaves_no_trace() -> None:
    plot = plot_of(EVERYTHING)
    plan = plan_of(EVERYTHING, plot)
    plot.seed_manager.reserve(plan, plot.step)
    assert fails_at_every_line(plot, plan) > 200
    states = [slot.state for site in plot.sites.values() for slot in site.slots]
    conv, fc1 = states[:3], states[3:]
    assert fc1 == [S.CULLED, S.FOSSILIZED, S.BLENDING]
    assert conv == [S.CULLED, S.FOSSILIZED, S.BLENDING]
    assert plot.sites["fc1"].slots[1].merged_sha256 is not None
    assert plot.sites["conv"].slots[1].merged_sha256 is None


def nothing(*_: Any) -> Callable[[], None]:
    """Keep nothing, so that nothing is put back."""
    return lambda: None


UNDOS: Mapping[str, tuple[Any, str]] = {
    "slots": (Slot, "keep"),
    "sites": (Site, "keep"),
    "synchronizer": (GradientSynchronizer, "keep"),
    "joining the optimizer": (OptimizerMembership, "_shorten"),
    "leaving the optimizer": (OptimizerMembership, "_kept"),
    "blending": (SeedManager, "_blend_only"),
    "merged weights": (merging, "_written_back"),
}


@pytest.mark.parametrize("undo", UNDOS)
def test_each_undo_is_needed(undo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = plot_of(EVERYTHING)
    plan = plan_of(EVERYTHING, plot)
    plot.seed_manager.reserve(plan, plot.step)
    owner, name = UNDOS[undo]
    monkeypatch.setattr(owner, name, nothing)
    with pytest.raises(AssertionError):
        fails_at_every_line(plot, plan)


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0, 1, exclude_max=True))
def test_after_a_plan_that_failed_training_goes_on_as_if_it_had_never_come(
    case: Case, where: float
) -> None:
    plot, never, whole = plot_of(case), plot_of(case), plot_of(case)
    plan = plan_of(case, plot)
    assume(plan.operations)
    for each in (plot, whole):
        each.seed_manager.reserve(plan, each.step)
    before = everything(plot)
    of_whole, kernels = whole.kernels_of(plan), plot.kernels_of(plan)
    with failing_at(None) as counted:
        whole.seed_manager.apply(plan, of_whole, whole.step)
    with (
        failing_at(int(where * counted.lines)) as faults,
        pytest.raises(PlanRefused, match="Injected"),
    ):
        plot.seed_manager.apply(plan, kernels, plot.step)
    assert faults.raised
    assert_the_same(plot, before)
    plot.seed_manager.release(plan, plot.step)
    for each in (plot, never):
        each.train(10)
    assert bits(plot.model.state_dict()) == bits(never.model.state_dict())
    mine, theirs = (each.optimizer.state_dict() for each in (plot, never))
    assert bits(mine["param_groups"]) == bits(theirs["param_groups"])
    assert dict(bits(mine["state"])) == dict(bits(theirs["state"]))


def inbox_of(plot: Plot) -> tuple[DecisionQueue, Reporter]:
    run_config = RunConfig(
        seed=0,
        slots={"conv": 3, "fc1": 3},
        policy=PolicySpec(),
        host_params=0,
        report_interval_steps=20,
    )
    reporter = Reporter(RUN, run_config)
    return DecisionQueue(plot.seed_manager, reporter), reporter


def test_a_plan_that_runs_out_of_memory_is_answered_as_refused_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plot = plot_of(EVERYTHING)
    decision_queue, reporter = inbox_of(plot)
    plan = plan_of(EVERYTHING, plot)
    decision_queue.on_decision(plan, int(time.time() * 1000))
    decision_queue.mailbox.append(KernelsPrepared(plan.decision_id, plot.kernels_of(plan)))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(SeedManager, "_fossilize", full)
        decision_queue.take(plot.step)
    outcome = reporter.news.outcomes[-1]
    assert outcome.status is OutcomeStatus.REFUSED
    assert outcome.reason is not None
    assert "OutOfMemoryError: no memory is left" in outcome.reason
    assert plot.sites["fc1"].slots[2].state is S.DORMANT
    plot.train(2)


def test_a_plan_interrupted_from_the_keyboard_is_taken_back_before_the_interrupt_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plot = plot_of(EVERYTHING)
    plan = plan_of(EVERYTHING, plot)
    plot.seed_manager.reserve(plan, plot.step)
    kernels, before = plot.kernels_of(plan), everything(plot)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SeedManager, "_fossilize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plot.seed_manager.apply(plan, kernels, plot.step)
    assert_the_same(plot, before)


def test_a_plan_that_fails_on_another_rank_is_taken_back_on_this_one() -> None:
    plot = plot_of(EVERYTHING)
    plan = plan_of(EVERYTHING, plot)
    plot.seed_manager.reserve(plan, plot.step)
    kernels, before = plot.kernels_of(plan), everything(plot)
    said = []

    def agreed(own: str) -> str:
        said.append(own)
        return "rank 1: the plan failed"

    with pytest.raises(PlanRefused, match="rank 1: the plan failed"):
        plot.seed_manager.apply(plan, kernels, plot.step, agreed)
    assert said == [""]
    assert_the_same(plot, before)
