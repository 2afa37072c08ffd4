"""The known-answer suite: five teachers, and every control on the same seeds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import esper
from benchmarks.growth.controls import (
    BY_TIMETABLE,
    EARLIER,
    LIVE,
    REPORT_EVERY,
    SLOTS,
    STATIC_FINAL,
    STEPS,
    WIDE,
    Choosing,
    fixed,
    timetable,
)
from benchmarks.growth.planting import Gardener, Workshop, grown_in
from benchmarks.growth.rows import Case, Row
from benchmarks.growth.suite import Live, Suite
from benchmarks.growth.training import Trained, epochs_for, row_of, trained
from benchmarks.stack import Stack, local_stack
from esper.bandit import snapshot
from esper.seed import Site, find_sites
from esper.store import RedisRunMemory
from esper.tasks import TEACHER_BLUEPRINTS, TEACHERS, KnownAnswerTask
from esper.tasks.train import DatasetSplits
from esper.topics.models import MemorySnapshot
from esper.training import Growth
from esper.workers.cli import publish_blueprints

NAME: Final = "known-answer"
EARLIER_CONTROL: Final = "bandit-earlier"


def cases(task: str, seeds: int) -> Iterator[Case]:
    """Yield the runs of one teacher; the many that plant one fixed kernel come last."""
    controls = [control for control in (*BY_TIMETABLE, *LIVE) if _has(task, control)]
    controls += [fixed(*arm) for arm in _arms(TEACHERS[task](0), Workshop(TEACHER_BLUEPRINTS))]
    for control in controls:
        for seed in range(seeds):
            yield Case(NAME, task, control, seed)


def run(case: Case, leant_on: Row | None) -> Row:
    """Train one run that nobody decides, in this process.

    Raises:
        NotYet: it follows another run, which is not on record.
    """
    answer, workshop = TEACHERS[case.task](case.seed), Workshop(TEACHER_BLUEPRINTS)
    arms = _arms(answer, workshop)
    plan = timetable(
        case.control, answer, case.seed, arms, None if leant_on is None else _kept(leant_on)
    )
    workshop = Workshop(TEACHER_BLUEPRINTS)
    gardeners: list[Gardener] = []

    @contextmanager
    def grows(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Gardener]:
        gardener = Gardener(
            model,
            optimizer,
            answer.task.sites,
            splits.probe[0][:1],
            workshop,
            plan,
            REPORT_EVERY,
            SLOTS,
        )
        gardeners.append(gardener)
        yield gardener
        gardener.close()

    task = replace(answer.task, host=answer.wide) if case.control == WIDE else answer.task
    result = trained(task, case.seed, epochs_for(task, STEPS), grows)
    grown = tuple(grown_in(gardeners[0].sites))
    return _row(case, answer, result, grown, compile_s=workshop.spent_s)


class Decided:
    """Runs that a bandit worker decides, in lockstep, on a stack of their own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._memories: dict[str, MemorySnapshot] = {}
        publish_blueprints(stack.settings, TEACHER_BLUEPRINTS)

    def __call__(self, case: Case) -> Sequence[Row]:
        """Train one run; with those before it that it remembers, where it remembers any."""
        if case.control != "bandit-memory":
            return (self._run(case, memory=False),)
        earlier = []
        if case.task not in self._memories:
            for seed in EARLIER:
                before = Case(case.suite, case.task, EARLIER_CONTROL, seed)
                earlier.append(self._run(before, memory=True))
            self._memories[case.task] = self._remembered(case.task)
        return (*earlier, self._run(case, memory=self._memories[case.task]))

    def _run(self, case: Case, memory: bool | MemorySnapshot) -> Row:
        answer, choosing = TEACHERS[case.task](case.seed), LIVE[case.control]
        growths: list[Growth] = []

        @contextmanager
        def grows(
            model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
        ) -> Iterator[Growth]:
            with self._growing(case, answer, choosing, memory, model, optimizer, splits) as growth:
                growths.append(growth)
                yield growth

        result = trained(answer.task, case.seed, epochs_for(answer.task, STEPS), grows)
        growth, workshop = growths[0], Workshop(TEACHER_BLUEPRINTS)
        _arms(answer, workshop)
        return _row(
            case,
            answer,
            result,
            tuple(grown_in(growth.sites)),
            compile_s=workshop.spent_s,
            run_id=growth.run_id,
        )

    def _growing(
        self,
        case: Case,
        answer: KnownAnswerTask,
        choosing: Choosing,
        memory: bool | MemorySnapshot,
        model: nn.Module,
        optimizer: Optimizer,
        splits: DatasetSplits,
    ) -> Growth:
        return esper.grow(
            model,
            optimizer,
            sites=answer.task.sites,
            probe=splits.probe,
            loss_fn=F.cross_entropy,
            run=f"{NAME}-{case.task}",
            slots=SLOTS,
            report_every=REPORT_EVERY,
            seed=case.seed,
            config=esper.GrowConfig(
                family=_family(case.task),
                policy=choosing.policy or esper.DEFAULT_POLICY,
                selection=choosing.selection or esper.DEFAULT_SELECTION,
                settings=self._stack.settings,
                lockstep=True,
                memory=memory,
            ),
        )

    def _remembered(self, task: str) -> MemorySnapshot:
        """Return what the earlier runs of a teacher left, once for all that begin with it."""
        answer, settings = TEACHERS[task](0), self._stack.settings
        memory = RedisRunMemory(settings.redis_url or "")
        try:
            known = memory.read(_family(task))
        finally:
            memory.close()
        signatures = {site.signature.text for site in _sites(answer).values()}
        return MemorySnapshot(family=_family(task), arms=snapshot(known, signatures))


@contextmanager
def live() -> Iterator[Live]:
    """Bring up broker, Redis and workers for the runs that are decided."""
    with local_stack() as stack:
        yield Decided(stack)


def _has(task: str, control: str) -> bool:
    if control == EARLIER_CONTROL:
        return False
    return control != "static-right" or TEACHERS[task](0).blueprint_id is not None


def _leans_on(case: Case) -> Case | None:
    return case._replace(control="bandit") if case.control == STATIC_FINAL else None


def _family(task: str) -> str:
    return f"{NAME}-{task}"


def _sites(answer: KnownAnswerTask) -> dict[str, Site]:
    sample = answer.task.load().probe[0][:1]
    with torch.random.fork_rng():
        return find_sites(answer.task.host(), answer.task.sites, sample, SLOTS)


def _arms(answer: KnownAnswerTask, workshop: Workshop) -> dict[tuple[str, str], int]:
    return workshop.arms(_sites(answer))


def _kept(row: Row) -> tuple[tuple[str, str], ...]:
    pairs = (arm.rpartition("/") for arm in row.kept)
    return tuple((site, name) for site, _, name in pairs)


def _row(
    case: Case,
    answer: KnownAnswerTask,
    result: Trained,
    grown: Sequence[tuple[str, str]],
    *,
    compile_s: float,
    run_id: str = "",
) -> Row:
    return row_of(
        case,
        result,
        compile_s=compile_s,
        kept=tuple(f"{site}/{name}" for site, name in grown),
        right=_right(answer, grown),
        run_id=run_id,
    )


def _right(answer: KnownAnswerTask, grown: Sequence[tuple[str, str]]) -> bool:
    """Whether what the host lacks is in the network; where it lacks nothing, whether nothing is."""
    if answer.blueprint_id is None:
        return not grown
    return (answer.site, answer.blueprint_id) in grown


SUITE: Final = Suite(
    name=NAME,
    tasks=tuple(TEACHERS),
    cases=cases,
    run=run,
    is_live=lambda case: case.control in LIVE,
    leans_on=_leans_on,
    live=live,
)
