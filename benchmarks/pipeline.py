"""From a submitted blueprint to a ready kernel, and from a decision to a changed network."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import esper
from benchmarks.result import BenchmarkError, Figure, Goal, Measured, figure, ratio
from benchmarks.stack import Stack, local_stack
from benchmarks.submissions import DIGITS_SITES, Submitter, new_blueprints
from benchmarks.threads import one_thread
from benchmarks.timing import scaled
from esper.blueprint import request_for, shipped
from esper.compiler import Built, CompileFarm
from esper.store import KernelStore, open_store
from esper.tasks.digits import SITES, Digits, train_digits
from esper.training import Growth
from topics.models import Blueprint
from workers.submit import publish_blueprints

COMPILE_TIMEOUT_S: Final = 10.0
WARMING_SUBMISSIONS: Final = 4
READY_GOAL_MS: Final = 150.0
READY_GOAL_RATIO: Final = 1.3
ACTIVE_GOAL_MS: Final = 10.0
MAX_RUNS: Final = 5


class Amount(NamedTuple):
    """How much is measured: submissions, and decisions out of runs of so many epochs."""

    submissions: int
    decisions: int
    epochs: int


FULL: Final = Amount(submissions=64, decisions=60, epochs=120)
QUICK: Final = Amount(submissions=2, decisions=1, epochs=20)


def run(quick: bool = False) -> Measured:
    """Measure on a stack of its own."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, amount: Amount) -> Measured:
    """Measure both ways on a running stack: decisions first, for which few blueprints are known."""
    publish_blueprints(stack.settings, shipped())
    decided = _decisions(stack, amount)
    submitted = _submissions(stack, amount.submissions)
    return Measured(
        parameters={**amount._asdict(), "report_every_steps": 20, "compile_processes": 1},
        figures=(*submitted, *decided),
    )


def _submissions(stack: Stack, submissions: int) -> tuple[Figure, ...]:
    ready, alone = asyncio.run(_in_pairs(stack, WARMING_SUBMISSIONS + submissions))
    ready_ms = scaled(ready[WARMING_SUBMISSIONS:], 1e3)
    alone_ms = scaled(alone[WARMING_SUBMISSIONS:], 1e3)
    return (
        figure(
            "submitted-to-ready",
            "submitted on the topic → kernel-ready, by one clock",
            "ms",
            ready_ms,
            goal=Goal(sense="at most", limit=READY_GOAL_MS),
        ),
        figure(
            "compile-alone",
            "the same compile work without a topic: a warm process, then the store",
            "ms",
            alone_ms,
        ),
        ratio(
            "submitted-to-ready-over-compile",
            "submitted → kernel-ready ÷ compile alone",
            ("submitted_to_ready_ms", ready_ms),
            ("compile_alone_ms", alone_ms),
            goal=Goal(sense="at most", limit=READY_GOAL_RATIO),
        ),
    )


async def _in_pairs(stack: Stack, pairs: int) -> tuple[list[float], list[float]]:
    """Return seconds to ready, and seconds to build the same graph alone, pair by pair."""
    ready: list[float] = []
    alone: list[float] = []
    blueprints = new_blueprints()
    store = open_store(stack.settings.kernel_store_url)
    with (
        CompileFarm(1, COMPILE_TIMEOUT_S) as farm,
        Submitter(stack.settings, DIGITS_SITES) as submitter,
    ):
        for _ in range(pairs):
            # Of another name, so of another kernel id: neither side finds the other's work done.
            submitted, built = next(blueprints), next(blueprints)
            built = submitted.model_copy(update={"blueprint_id": built.blueprint_id})
            ready.append(await asyncio.to_thread(submitter.ready_after_s, submitted))
            alone.append(await _built_alone_s(farm, store, built))
    return ready, alone


async def _built_alone_s(farm: CompileFarm, store: KernelStore, blueprint: Blueprint) -> float:
    sites = DIGITS_SITES.values()
    request = next(request_for(blueprint, site) for site in sites if site.kind is blueprint.kind)
    start = perf_counter()
    outcome = await farm.build(request)
    if not isinstance(outcome, Built):
        raise BenchmarkError(f"{blueprint.blueprint_id} was rejected: {outcome.reason}")
    await asyncio.to_thread(store.put, request.kernel_id, outcome.artifact)
    return perf_counter() - start


def _decisions(stack: Stack, amount: Amount) -> tuple[Figure, ...]:
    latency_ms: list[float] = []
    step_ms: list[float] = []
    with one_thread():
        for seed in range(MAX_RUNS):
            for taken_ms, last_step_ms in _grow(stack, seed, amount.epochs):
                latency_ms.append(taken_ms)
                step_ms.append(last_step_ms)
            if len(latency_ms) >= amount.decisions:
                break
    pairs = list(zip(latency_ms, step_ms, strict=True))
    return (
        figure("decision-to-active", "decision on the topic → active", "ms", latency_ms),
        figure(
            "decision-to-active-beyond-a-step",
            "the same, less the training step that was under way when it took effect",
            "ms",
            [taken - step for taken, step in pairs],
            goal=Goal(sense="at most", limit=ACTIVE_GOAL_MS),
        ),
        figure(
            "step-boundary-share",
            "that training step as a share of decision → active",
            "share",
            [min(1.0, step / taken) for taken, step in pairs if taken > 0],
        ),
    )


class _Clocked:
    """Growth that notes how long the training step before each of its own steps took."""

    def __init__(self, growth: Growth) -> None:
        self.growth = growth
        self.step_s: list[float] = []
        self._ended = perf_counter()

    def step(self, loss: Tensor) -> None:
        """Take the time, and let the model grow."""
        self.step_s.append(perf_counter() - self._ended)
        self.growth.step(loss)
        self._ended = perf_counter()


def _grow(stack: Stack, seed: int, epochs: int) -> list[tuple[float, float]]:
    """Return (decision → active, the step before it) in ms, for every decision that was applied."""
    clocks: list[_Clocked] = []

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, digits: Digits) -> Iterator[_Clocked]:
        with esper.grow(
            model,
            optimizer,
            sites=SITES,
            probe=digits.probe,
            loss_fn=F.cross_entropy,
            run="benchmark",
            seed=seed,
            settings=stack.settings,
        ) as growth:
            clocks.append(_Clocked(growth))
            yield clocks[0]

    train_digits(seed, epochs, attach)
    clock = clocks[0]
    return [
        (outcome.latency_ms, clock.step_s[outcome.step - 1] * 1e3)
        for outcome in clock.growth.ancestry.outcomes.values()
        if outcome.latency_ms is not None
    ]
