"""The known-answer suite: five teachers, and every control on the same seeds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

from benchmarks.stack import Stack, local_stack
from esper.bandit import snapshot
from esper.seed import Site, find_sites
from esper.store import RedisRunMemory
from esper.tasks import TEACHER_BLUEPRINTS, TEACHERS, DatasetSplits, KnownAnswerTask
from esper.topics.models import MemorySnapshot
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from experiments.growth.controls import (
    EARLIER,
    LIVE,
    REPORT_EVERY,
    SCHEDULED,
    SLOTS,
    STATIC_FINAL,
    STEPS,
    WIDE,
    fixed,
    planting_schedule,
)
from experiments.growth.live import family_of, grow_live
from experiments.growth.planting import KernelBuilder, ScheduledGrower, grown_kernels
from experiments.growth.rows import Case, RunRow
from experiments.growth.suite import Live, Suite
from experiments.growth.training import TrainingResult, epochs_for, row_of, train_run

NAME: Final = "known-answer"
EARLIER_CONTROL: Final = "bandit-earlier"


def cases(task: str, seeds: int) -> Iterator[Case]:
    """Yield the runs of one teacher; those with one fixed kernel come last."""
    controls = [control for control in (*SCHEDULED, *LIVE) if _has(task, control)]
    controls += [fixed(*arm) for arm in _arms(TEACHERS[task](0), KernelBuilder(TEACHER_BLUEPRINTS))]
    for control in controls:
        for seed in range(seeds):
            yield Case(NAME, task, control, seed)


def run(case: Case, dependency: RunRow | None) -> RunRow:
    """Train one run without decisions, in this process.

    Raises:
        MissingRun: the control depends on another run that has no row yet.
    """
    answer, builder = TEACHERS[case.task](case.seed), KernelBuilder(TEACHER_BLUEPRINTS)
    arms = _arms(answer, builder)
    schedule = planting_schedule(
        case.control, answer, case.seed, arms, None if dependency is None else _kept(dependency)
    )
    builder = KernelBuilder(TEACHER_BLUEPRINTS)
    growers: list[ScheduledGrower] = []

    @contextmanager
    def grows(
        model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
    ) -> Iterator[ScheduledGrower]:
        grower = ScheduledGrower(
            model,
            optimizer,
            answer.task.sites,
            splits.probe[0][:1],
            builder,
            schedule,
            REPORT_EVERY,
            SLOTS,
        )
        growers.append(grower)
        yield grower
        grower.close()

    task = replace(answer.task, host=answer.wide) if case.control == WIDE else answer.task
    result = train_run(task, case.seed, epochs_for(task, STEPS), grows)
    grown = tuple(grown_kernels(growers[0].sites))
    return _row_of(case, answer, result, grown, compile_s=builder.spent_s)


class LiveRunner:
    """Trains runs whose decisions a bandit worker makes, in lockstep, on one stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._memories: dict[str, MemorySnapshot] = {}
        publish_blueprints(stack.settings, TEACHER_BLUEPRINTS)

    def __call__(self, case: Case) -> Sequence[RunRow]:
        """Train one run; `bandit-memory` trains the runs that it remembers first."""
        if case.control != "bandit-memory":
            return (self._run(case, memory=False),)
        earlier = []
        if case.task not in self._memories:
            for seed in EARLIER:
                earlier_case = Case(case.suite, case.task, EARLIER_CONTROL, seed)
                earlier.append(self._run(earlier_case, memory=True))
            self._memories[case.task] = self._remembered(case.task)
        return (*earlier, self._run(case, memory=self._memories[case.task]))

    def _run(self, case: Case, memory: bool | MemorySnapshot) -> RunRow:
        answer, setup = TEACHERS[case.task](case.seed), LIVE[case.control]
        growths: list[Growth] = []

        @contextmanager
        def grows(
            model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
        ) -> Iterator[Growth]:
            settings, task = self._stack.settings, answer.task
            with grow_live(
                settings, case, task, setup, model, optimizer, splits, memory=memory
            ) as growth:
                growths.append(growth)
                yield growth

        result = train_run(answer.task, case.seed, epochs_for(answer.task, STEPS), grows)
        growth, builder = growths[0], KernelBuilder(TEACHER_BLUEPRINTS)
        _arms(answer, builder)
        return _row_of(
            case,
            answer,
            result,
            tuple(grown_kernels(growth.sites)),
            compile_s=builder.spent_s,
            run_id=growth.run_id,
        )

    def _remembered(self, task: str) -> MemorySnapshot:
        """Return the memory that the earlier runs of a teacher left in Redis."""
        answer, settings = TEACHERS[task](0), self._stack.settings
        memory = RedisRunMemory(settings.redis_url or "")
        try:
            known = memory.read(family_of(NAME, task))
        finally:
            memory.close()
        signatures = {site.signature.text for site in _sites(answer).values()}
        return MemorySnapshot(family=family_of(NAME, task), arms=snapshot(known, signatures))


@contextmanager
def live() -> Iterator[Live]:
    """Start broker, Redis and workers for the live cases."""
    with local_stack() as stack:
        yield LiveRunner(stack)


def _has(task: str, control: str) -> bool:
    if control == EARLIER_CONTROL:
        return False
    return control != "static-right" or TEACHERS[task](0).blueprint_id is not None


def _depends_on(case: Case) -> Case | None:
    return case._replace(control="bandit") if case.control == STATIC_FINAL else None


def _sites(answer: KnownAnswerTask) -> dict[str, Site]:
    sample = answer.task.load().probe[0][:1]
    with torch.random.fork_rng():
        return find_sites(answer.task.host(), answer.task.sites, sample, SLOTS)


def _arms(answer: KnownAnswerTask, builder: KernelBuilder) -> dict[tuple[str, str], int]:
    return builder.arms(_sites(answer))


def _kept(row: RunRow) -> tuple[tuple[str, str], ...]:
    pairs = (arm.rpartition("/") for arm in row.kept)
    return tuple((site, name) for site, _, name in pairs)


def _row_of(
    case: Case,
    answer: KnownAnswerTask,
    result: TrainingResult,
    grown: Sequence[tuple[str, str]],
    *,
    compile_s: float,
    run_id: str = "",
) -> RunRow:
    return row_of(
        case,
        result,
        compile_s=compile_s,
        kept=tuple(f"{site}/{name}" for site, name in grown),
        right=_right(answer, grown),
        run_id=run_id,
    )


def _right(answer: KnownAnswerTask, grown: Sequence[tuple[str, str]]) -> bool:
    """Return whether the missing kernel was planted; on the null teacher, whether none was."""
    if answer.blueprint_id is None:
        return not grown
    return (answer.site, answer.blueprint_id) in grown


SUITE: Final = Suite(
    name=NAME,
    tasks=tuple(TEACHERS),
    cases=cases,
    run=run,
    is_live=lambda case: case.control in LIVE,
    depends_on=_depends_on,
    live=live,
)
