"""Latency from a submitted blueprint to a ready kernel, and from a decision to its effect."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Final, NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

import esper
from benchmarks.result import BenchmarkError, Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from benchmarks.submissions import DIGITS_SITES, Submitter, of_one_kind, renamed
from benchmarks.threads import one_thread
from esper.blueprint import request_for, shipped
from esper.compiler import Built, CompilePool
from esper.store import KernelStore, open_store
from esper.tasks import DIGITS, DatasetSplits, train_task
from esper.topics.bus import Record, read_topic
from esper.topics.catalog import KERNEL_COMPILED
from esper.topics.codec import decode
from esper.topics.models import Blueprint, Event, KernelCompiled, KernelRequested
from esper.training import Growth
from esper.workers.cli import publish_blueprints

COMPILE_TIMEOUT_S: Final = 10.0
WARMING_SUBMISSIONS: Final = 4
READY_GOAL_MS: Final = 150.0
READY_GOAL_RATIO: Final = 1.3
ACTIVE_GOAL_MS: Final = 10.0
MAX_RUNS: Final = 5
QUICK_ENTRIES: Final = 2

STEPS: Final = {
    "compile-queue": "waiting for a process to compile",
    "compile": "compile",
    "optimize": "optimise",
    "serialise": "initial weights and serialising",
    "validate-queue": "waiting for a process to validate",
    "validate": "validate and characterise",
    "handover": "to the two processes and back",
    "sign": "sign",
    "store": "store",
}
"""The steps that a compile worker times, by their names in `KernelCompiled.timings_ms`."""

E = TypeVar("E", bound=Event)


class Workload(NamedTuple):
    """Rounds over the catalog, decisions to measure, and epochs of a run.

    With 0 rounds, two catalog entries are measured once.
    """

    rounds: int
    decisions: int
    epochs: int


FULL: Final = Workload(rounds=4, decisions=60, epochs=120)
QUICK: Final = Workload(rounds=0, decisions=1, epochs=20)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack: decisions first, while the stack has few blueprints."""
    publish_blueprints(stack.settings, shipped())
    decided = _decisions(stack, workload)
    submitted = _submissions(stack, workload.rounds)
    return Measurement(
        parameters={**workload._asdict(), "report_every_steps": 20, "compile_processes": 1},
        figures=(*submitted, *decided),
    )


def _submissions(stack: Stack, rounds: int) -> tuple[Figure, ...]:
    entries = list(of_one_kind()) if rounds else list(of_one_kind())[:QUICK_ENTRIES]
    pairs = asyncio.run(_in_pairs(stack, entries, max(1, rounds)))
    ready_ms = [pair.ready_s * 1e3 for pair in pairs]
    alone_ms = [pair.alone_s * 1e3 for pair in pairs]
    return (
        figure(
            "submitted-to-ready",
            "submitted on the topic → kernel-ready, by one clock, over the whole catalog",
            "ms",
            ready_ms,
            goal=Goal(sense="at most", limit=READY_GOAL_MS),
        ),
        figure(
            "compile-alone",
            "the same work without a topic: compile, validate and characterise in warm "
            "processes, then store",
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
        *_shares(stack, pairs),
    )


def _shares(stack: Stack, pairs: Sequence["_Pair"]) -> Iterator[Figure]:
    """Yield the share of each compile step in submitted → ready, and of the rest."""
    records = read_topic(stack.settings.kafka_bootstrap_servers, KERNEL_COMPILED.name)
    compiled = {event.kernel_id: event for event in _events(KernelCompiled, records)}
    rest = [1.0] * len(pairs)
    for step, title in STEPS.items():
        share = [
            compiled[pair.kernel_id].timings_ms.get(step, 0.0) / (pair.ready_s * 1e3)
            for pair in pairs
        ]
        rest = [left - taken for left, taken in zip(rest, share, strict=True)]
        yield figure(f"share-{step}", f"{title}, as a share of submitted → ready", "share", share)
    yield figure("share-topics", "the rest: transport over the topics", "share", rest)


def _events(model: type[E], records: Iterable[Record]) -> Iterator[E]:
    return (decode(model, record.value) for record in records)


class _Pair(NamedTuple):
    """One kernel, made through the topics and alone, in seconds."""

    kernel_id: str
    ready_s: float
    alone_s: float


async def _in_pairs(stack: Stack, entries: Sequence[Blueprint], rounds: int) -> list[_Pair]:
    """Make every entry through the topics and alone, alternately, `rounds` times."""
    pairs: list[_Pair] = []
    store = open_store(stack.settings.kernel_store_spec)
    with (
        CompilePool(1, COMPILE_TIMEOUT_S) as compile_pool,
        Submitter(stack.settings, DIGITS_SITES) as submitter,
    ):
        warming = [(f"w{i}", entry) for i, entry in enumerate(entries[:WARMING_SUBMISSIONS])]
        work = [(str(number), entry) for number in range(rounds) for entry in entries]
        for name, entry in (*warming, *work):
            # Two names give two kernel ids, so that neither side finds the other's kernel stored.
            submitted, built = renamed(entry, name), renamed(entry, f"{name}-alone")
            ready_s = await asyncio.to_thread(submitter.ready_after_s, submitted)
            alone_s = await _built_alone_s(compile_pool, store, built)
            pairs.append(_Pair(_request(submitted).kernel_id, ready_s, alone_s))
    return pairs[len(warming) :]


def _request(blueprint: Blueprint) -> KernelRequested:
    sites = DIGITS_SITES.values()
    return next(request_for(blueprint, site) for site in sites if site.kind in blueprint.kinds)


async def _built_alone_s(
    compile_pool: CompilePool, store: KernelStore, blueprint: Blueprint
) -> float:
    request = _request(blueprint)
    start = perf_counter()
    outcome = await compile_pool.build(request)
    if not isinstance(outcome, Built):
        raise BenchmarkError(f"{blueprint.blueprint_id} was rejected: {outcome.reason}")
    await asyncio.to_thread(store.put, request.kernel_id, outcome.artifact)
    return perf_counter() - start


def _decisions(stack: Stack, workload: Workload) -> tuple[Figure, ...]:
    latency_ms: list[float] = []
    step_ms: list[float] = []
    with one_thread():
        for seed in range(MAX_RUNS):
            for taken_ms, last_step_ms in _grow(stack, seed, workload.epochs):
                latency_ms.append(taken_ms)
                step_ms.append(last_step_ms)
            if len(latency_ms) >= workload.decisions:
                break
    pairs = list(zip(latency_ms, step_ms, strict=True))
    return (
        figure("decision-to-active", "decision on the topic → active", "ms", latency_ms),
        figure(
            "decision-to-active-beyond-a-step",
            "the same, less the training step that was running when it took effect",
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
    """Growth that records the duration of the training step before each `step` call."""

    def __init__(self, growth: Growth) -> None:
        self.growth = growth
        self.step_s: list[float] = []
        self._ended = perf_counter()

    def step(self, loss: Tensor) -> None:
        """Record the time and let the model grow."""
        self.step_s.append(perf_counter() - self._ended)
        self.growth.step(loss)
        self._ended = perf_counter()


def _grow(stack: Stack, seed: int, epochs: int) -> list[tuple[float, float]]:
    """Return (decision → active, the step before it) in ms for every applied decision."""
    clocks: list[_Clocked] = []

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, digits: DatasetSplits) -> Iterator[_Clocked]:
        with esper.grow(
            model,
            optimizer,
            sites=DIGITS.sites,
            probe=digits.probe,
            loss_fn=F.cross_entropy,
            run="benchmark",
            seed=seed,
            config=esper.GrowConfig(settings=stack.settings),
        ) as growth:
            clocks.append(_Clocked(growth))
            yield clocks[0]

    train_task(DIGITS, seed, epochs, attach)
    clock = clocks[0]
    return [
        (outcome.latency_ms, clock.step_s[outcome.step - 1] * 1e3)
        for outcome in clock.growth.run_history.outcomes.values()
        if outcome.latency_ms is not None
    ]
