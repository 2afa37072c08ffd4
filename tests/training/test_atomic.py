"""A plan is applied as a whole or not at all, whichever line of it fails."""

import copy
import itertools
import logging
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
from esper.training.alpha_ramps import AlphaRamps
from esper.training.decision_queue import DecisionQueue
from esper.training.optimizer import OptimizerMembership
from esper.training.plan_applier import PlanApplier
from esper.training.reporter import Reporter
from esper.training.seed_manager import PlanRefused, SeedManager
from tests.seed.hosts import images, labels
from tests.seed.kernels import awaken
from tests.training.fault_injection import failing_at
from tests.training.grow_fixture import RUN, GrowingHost, MakeOptimizer, decision, planting

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
"""Blueprints by site and slot. All at fc1 but the first, and the first at conv, can merge."""

SLOTS = [(site, slot) for site in BLUEPRINTS for slot in range(3)]


class Case(NamedTuple):
    """The state of each slot before the plan, and the plan's action on each (see `ACTIONS`)."""

    optimizer: str
    held: tuple[str, ...]
    plan: tuple[str, ...]
    synchronized: bool


ACTIONS = {
    "empty": ("nothing", "plant"),
    "blending": ("nothing", "cull"),
    "active": ("nothing", "cull", "fossilize", "reweight"),
    "fossilized": ("nothing",),
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw slot states and a plan that is possible for them."""
    held = tuple(draw(st.sampled_from(sorted(ACTIONS))) for _ in SLOTS)
    plan = tuple(draw(st.sampled_from(ACTIONS[state])) for state in held)
    return Case(draw(st.sampled_from(sorted(OPTIMIZERS))), held, plan, draw(st.booleans()))


EVERYTHING = Case(
    "named adamw, two groups",
    ("blending", "active", "empty", "active", "active", "empty"),
    ("cull", "fossilize", "plant", "cull", "fossilize", "plant"),
    synchronized=True,
)
"""Every kind of operation: one seed merges into its layer, another stays beside its layer."""


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """Make this process a group of one rank, so that the synchronizer reduces gradients."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log nothing: a traceback for each injected failure costs a quarter of the time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def growing_host_of(case: Case) -> GrowingHost:
    """Return a trained model with seeds, and with gradients of a step that is not taken yet."""
    growing = GrowingHost(OPTIMIZERS[case.optimizer])
    if case.synchronized:
        growing.seed_manager.close()
        growing.seed_manager = SeedManager(
            growing.sites,
            OptimizerMembership(growing.optimizer),
            GradientSynchronizer(growing.model, dist.group.WORLD),
        )
    growing.train(1)
    for (site, slot), state in zip(SLOTS, case.held, strict=True):
        if state != "empty":
            ramp = 50 if state == "blending" else 0
            awaken(growing.plant(site, slot, BLUEPRINTS[site][slot], alpha=0.5, ramp_steps=ramp))
    growing.train(2)
    for (site, slot), state in zip(SLOTS, case.held, strict=True):
        if state == "fossilized":
            growing.fossilize(site, slot)
    F.cross_entropy(growing.model(images(8)), labels(8)).backward()
    return growing


MAKE: Mapping[str, Callable[..., Operation]] = {
    "cull": Cull,
    "fossilize": Fossilize,
    "reweight": partial(Reweight, alpha=0.75, ramp_steps=5),
}


def plan_of(case: Case, growing: GrowingHost) -> AdaptationDecision:
    operations: list[Operation] = []
    for (site, slot), action in zip(SLOTS, case.plan, strict=True):
        planted = growing.sites[site].slots[slot].planted
        if action == "plant":
            operations.append(planting(growing.sites[site], slot, BLUEPRINTS[site][slot]))
        elif action != "nothing":
            assert planted is not None
            operations.append(MAKE[action](site=site, slot=slot, kernel_id=planted.kernel_id))
    return decision(*operations, name="the plan")


def bits(value: Any) -> Any:
    """Return a value with each tensor as its bytes, so that NaNs compare equal too."""
    if isinstance(value, Tensor):
        data = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), data
    if isinstance(value, Mapping):
        return [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return value


def everything(growing: GrowingHost) -> dict[str, Any]:
    """Return all state that a plan touches, and the random number generator's."""
    synchronizer: Any = growing.seed_manager._parameters._synchronizer
    synchronized: Any = () if synchronizer is None else synchronizer._hooks
    buckets = () if synchronizer is None else synchronizer._buckets
    modules = dict(growing.model.named_modules())
    groups = growing.optimizer.param_groups
    return {
        "weights": bits(growing.model.state_dict()),
        "gradients": [
            (name, bits(parameter.grad)) for name, parameter in growing.model.named_parameters()
        ],
        "modules": [(name, id(module)) for name, module in modules.items()],
        "forwards": [name for name, module in modules.items() if "forward" in module.__dict__],
        "trained": [[id(parameter) for parameter in group["params"]] for group in groups],
        "settings": [{**group, "params": None} for group in groups],
        "state": {
            id(parameter): bits(state) for parameter, state in growing.optimizer.state.items()
        },
        "slots": copy.deepcopy([site.slots for site in growing.sites.values()]),
        "blending": [
            (slot.site, slot.index, id(seed))
            for slot, seed in growing.seed_manager._ramps._blending
        ],
        "random": bits(torch.get_rng_state()),
        "synchronized": [id(parameter) for parameter in synchronized],
        "hooks": [len(one._post_accumulate_grad_hooks or {}) for one in synchronized],
        "buckets": [[id(parameter) for parameter in bucket.parameters] for bucket in buckets],
    }


def assert_the_same(growing: GrowingHost, before: dict[str, Any]) -> None:
    after = everything(growing)
    for name, value in before.items():
        assert after[name] == value, name


def fails_at_every_line(growing: GrowingHost, plan: AdaptationDecision) -> int:
    """Apply a reserved plan with a failure at each line in turn until it succeeds; count them."""
    kernels = growing.kernels_of(plan)
    before = everything(growing)
    for line in itertools.count():
        with failing_at(line) as faults:
            try:
                growing.seed_manager.apply(plan, kernels, growing.step)
            except PlanRefused as refusal:
                assert faults.raised, refusal
        if not faults.raised:
            return line
        assert_the_same(growing, before)
    raise AssertionError


def test_a_plan_that_fails_at_any_line_is_rolled_back_bit_for_bit() -> None:
    growing = growing_host_of(EVERYTHING)
    plan = plan_of(EVERYTHING, growing)
    growing.seed_manager.reserve(plan, growing.step)
    assert fails_at_every_line(growing, plan) > 2000
    states = [slot.state for site in growing.sites.values() for slot in site.slots]
    conv, fc1 = states[:3], states[3:]
    assert fc1 == [S.CULLED, S.FOSSILIZED, S.BLENDING]
    assert conv == [S.CULLED, S.FOSSILIZED, S.BLENDING]
    assert growing.sites["fc1"].slots[1].merged_sha256 is not None
    assert growing.sites["conv"].slots[1].merged_sha256 is None


def undo_nothing(*_: Any) -> Callable[[], None]:
    """Replace an undo action by one that restores nothing."""
    return lambda: None


UNDOS: Mapping[str, tuple[Any, str]] = {
    "slots": (Slot, "undo_point"),
    "sites": (Site, "undo_point"),
    "synchronizer": (GradientSynchronizer, "undo_point"),
    "joining the optimizer": (OptimizerMembership, "_shorten"),
    "leaving the optimizer": (OptimizerMembership, "_kept"),
    "blending": (AlphaRamps, "undo_point"),
    "merged weights": (merging, "_undo_write"),
}


@pytest.mark.parametrize("undo", UNDOS)
def test_without_any_one_undo_action_a_failed_plan_leaves_changes(
    undo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = growing_host_of(EVERYTHING)
    plan = plan_of(EVERYTHING, growing)
    growing.seed_manager.reserve(plan, growing.step)
    owner, name = UNDOS[undo]
    monkeypatch.setattr(owner, name, undo_nothing)
    with pytest.raises(AssertionError):
        fails_at_every_line(growing, plan)


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0, 1, exclude_max=True))
def test_after_a_failed_plan_training_continues_bit_for_bit_as_without_the_plan(
    case: Case, where: float
) -> None:
    growing, without_plan, applied = (
        growing_host_of(case),
        growing_host_of(case),
        growing_host_of(case),
    )
    plan = plan_of(case, growing)
    assume(plan.operations)
    for one in (growing, applied):
        one.seed_manager.reserve(plan, one.step)
    before = everything(growing)
    kernels, applied_kernels = growing.kernels_of(plan), applied.kernels_of(plan)
    with failing_at(None) as counted:
        applied.seed_manager.apply(plan, applied_kernels, applied.step)
    with (
        failing_at(int(where * counted.lines)) as faults,
        pytest.raises(PlanRefused, match="Injected"),
    ):
        growing.seed_manager.apply(plan, kernels, growing.step)
    assert faults.raised
    assert_the_same(growing, before)
    growing.seed_manager.release(plan, growing.step)
    for one in (growing, without_plan):
        one.train(10)
    assert bits(growing.model.state_dict()) == bits(without_plan.model.state_dict())
    mine, theirs = (one.optimizer.state_dict() for one in (growing, without_plan))
    assert bits(mine["param_groups"]) == bits(theirs["param_groups"])
    assert dict(bits(mine["state"])) == dict(bits(theirs["state"]))


def queue_of(growing: GrowingHost) -> tuple[DecisionQueue, Reporter]:
    run_config = RunConfig(
        seed=0,
        slots={"conv": 3, "fc1": 3},
        policy=PolicySpec(),
        host_params=0,
        report_interval_steps=20,
    )
    reporter = Reporter(RUN, run_config)
    return DecisionQueue(growing.seed_manager, reporter), reporter


def test_a_plan_that_runs_out_of_memory_is_refused_and_training_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = growing_host_of(EVERYTHING)
    decision_queue, reporter = queue_of(growing)
    plan = plan_of(EVERYTHING, growing)
    decision_queue.on_decision(plan, int(time.time() * 1000))
    decision_queue.mailbox.append(KernelsPrepared(plan.decision_id, growing.kernels_of(plan)))

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory is left")

    with monkeypatch.context() as patch:
        patch.setattr(PlanApplier, "_fossilize", out_of_memory)
        decision_queue.empty_mailbox(growing.step)
        decision_queue.process(growing.step)
    outcome = reporter.news.outcomes[-1]
    assert outcome.status is OutcomeStatus.REFUSED
    assert outcome.reason is not None
    assert "OutOfMemoryError: no memory is left" in outcome.reason
    assert growing.sites["fc1"].slots[2].state is S.DORMANT
    growing.train(2)


def test_a_plan_interrupted_from_the_keyboard_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = growing_host_of(EVERYTHING)
    plan = plan_of(EVERYTHING, growing)
    growing.seed_manager.reserve(plan, growing.step)
    kernels, before = growing.kernels_of(plan), everything(growing)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlanApplier, "_fossilize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        growing.seed_manager.apply(plan, kernels, growing.step)
    assert_the_same(growing, before)


def test_a_plan_that_fails_on_another_rank_is_rolled_back_on_this_rank() -> None:
    growing = growing_host_of(EVERYTHING)
    plan = plan_of(EVERYTHING, growing)
    growing.seed_manager.reserve(plan, growing.step)
    kernels, before = growing.kernels_of(plan), everything(growing)
    own_failures = []

    def collect_failures(own: str) -> str:
        own_failures.append(own)
        return "rank 1: the plan failed"

    with pytest.raises(PlanRefused, match="rank 1: the plan failed"):
        growing.seed_manager.apply(plan, kernels, growing.step, collect_failures)
    assert own_failures == [""]
    assert_the_same(growing, before)
