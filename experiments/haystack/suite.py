"""The haystack suite: does an audition find the one kernel that a host lacks?

Equal seeds are pairs: they start from the same weights and see the same batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from torch import nn
from torch.optim import Optimizer

from benchmarks.stack import Stack, local_stack
from esper.bandit import AUDITIONED, DEFAULT_POLICY
from esper.tasks import DatasetSplits, KnownAnswerTask
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from experiments.growth.controls import (
    HOST,
    LIVE,
    REPORT_EVERY,
    SLOTS,
    STEPS,
    SelectionSetup,
)
from experiments.growth.live import auditions_of, grow_live
from experiments.growth.planting import (
    KernelBuilder,
    ScheduledGrower,
    ScheduledPlant,
    grown_kernels,
    kept_names,
)
from experiments.growth.rows import Case, RunRow
from experiments.growth.suite import Live, Suite
from experiments.growth.training import epochs_for, row_of, train_run
from experiments.haystack.tasks import RIGHT, TASKS, blueprints, family_of, haystack_task

NAME: Final = "haystack"
STATIC_RIGHT: Final = "static-right"
AUDITION_WORKERS: Final = 2

SETUPS: Final = {
    "audition": SelectionSetup(DEFAULT_POLICY, AUDITIONED),
    "random-policy": LIVE["random-policy"],
}
"""Controls with decisions; `random-policy` has about 50 trials, twelve at a time."""


def cases(task: str, seeds: int) -> Iterator[Case]:
    """Yield the runs of one task."""
    controls = [HOST, *([STATIC_RIGHT] if RIGHT[task] else []), *SETUPS]
    for control in controls:
        for seed in range(seeds):
            yield Case(NAME, task, control, seed)


def run(case: Case, dependency: RunRow | None) -> RunRow:
    """Train a run without decisions: the host, alone or with the right kernel from the start."""
    answer, builder = haystack_task(case.task, case.seed), KernelBuilder(blueprints())
    schedule = []
    if case.control == STATIC_RIGHT:
        schedule = [ScheduledPlant(0, answer.site or "", _right_member(case.task))]
    growers: list[ScheduledGrower] = []

    @contextmanager
    def grows(
        model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
    ) -> Iterator[ScheduledGrower]:
        sample = splits.probe[0][:1]
        grower = ScheduledGrower(
            model, optimizer, answer.task.sites, sample, builder, schedule, REPORT_EVERY, SLOTS
        )
        growers.append(grower)
        yield grower
        grower.close()

    result = train_run(answer.task, case.seed, epochs_for(answer.task, STEPS), grows)
    sites = growers[0].sites
    grown = tuple(grown_kernels(sites))
    return row_of(case, result, kept=kept_names(sites), right=is_right(case.task, answer, grown))


class LiveRunner:
    """Trains runs with decisions on one stack."""

    def __init__(self, stack: Stack) -> None:
        # More kernels than one publisher has by default in a run.
        self._settings = stack.settings.model_copy(update={"kernels_per_publisher": 512})
        publish_blueprints(stack.settings, blueprints())

    def __call__(self, case: Case) -> Sequence[RunRow]:
        """Train one run."""
        answer, setup = haystack_task(case.task, case.seed), SETUPS[case.control]
        growths: list[Growth] = []

        @contextmanager
        def grows(
            model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
        ) -> Iterator[Growth]:
            # The host has seen these samples only a few times when it reaches its plateau.
            audition = splits.train if setup.selection.auditions else None
            with grow_live(
                self._settings,
                case,
                answer.task,
                setup,
                model,
                optimizer,
                splits,
                audition=audition,
            ) as growth:
                growths.append(growth)
                yield growth

        result = train_run(answer.task, case.seed, epochs_for(answer.task, STEPS), grows)
        growth, kafka = growths[0], self._settings.kafka_bootstrap_servers
        grown = tuple(grown_kernels(growth.sites))
        row = row_of(
            case,
            result,
            kept=kept_names(growth.sites),
            right=is_right(case.task, answer, grown),
            run_id=growth.run_id,
            trials=sum(len(one.plants) for one in growth.run_history.decisions),
            audition_cpu_s=sum(one.cpu_seconds for one in auditions_of(kafka, growth.run_id)),
        )
        return (row,)


@contextmanager
def live() -> Iterator[Live]:
    """Start the services and workers for the runs with decisions."""
    with local_stack(audition_workers=AUDITION_WORKERS) as stack:
        yield LiveRunner(stack)


def is_right(task: str, answer: KnownAnswerTask, grown: Sequence[tuple[str, str]]) -> bool:
    """Return whether the right family is at the right site; on `null`, whether nothing grew."""
    if answer.site is None:
        return not grown
    return any(site == answer.site and family_of(name) in RIGHT[task] for site, name in grown)


def _right_member(task: str) -> str:
    """Return the right kernel's name, of the second smallest width."""
    names = [one.blueprint_id for one in blueprints()]
    return [name for name in names if family_of(name) in RIGHT[task]][1]


SUITE: Final = Suite(
    name=NAME,
    tasks=TASKS,
    cases=cases,
    run=run,
    is_live=lambda case: case.control in SETUPS,
    depends_on=lambda case: None,
    live=live,
)
