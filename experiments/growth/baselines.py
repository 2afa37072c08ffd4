"""A task that grows through the whole stack, against baselines of equal parameters or equal time.

Equal seeds are pairs: equal hosts start from equal weights, and batches come in the same order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

import esper
from benchmarks.result import BenchmarkError
from benchmarks.stack import Stack, local_stack
from esper.bandit import AUDITIONED, TRIALS
from esper.seed import find_sites
from esper.tasks import DatasetSplits, Task, no_growth
from esper.topics.models import Selection
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from esper.workers.cli.train import REPORT_EVERY
from experiments.growth.adapters import adapter_costs, ranks_for, with_adapters
from experiments.growth.planting import KernelBuilder, kept_names, offered_in
from experiments.growth.rows import Case, Ledger, RunRow
from experiments.growth.suite import Live, Suite
from experiments.growth.training import TrainingResult, row_of, train_run

ESPER: Final = "esper"
HOST: Final = "host"
WIDE: Final = "wide"
ADAPTERS: Final = "adapters"
AUDITIONS: Final = "auditions"
"""The host grown with auditions, as `esper.grow` does by default with audition samples."""

TIME_MATCHED: Final = {"host-as-long": HOST, "wide-as-long": WIDE}
"""Baselines that train as long as the grown run took, its waiting included."""

SLOTS: Final = 2
"""Seeds of each site."""

UNLIMITED_EPOCHS: Final = 1000
"""Epochs of a run that a time limit ends."""


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A task and its baselines.

    `wide` makes the host with about a given number of parameters. `extra_baselines` maps a name to
    a training with (seed, parameters). `time_matched` adds the baselines of equal time, `auditions`
    the host grown with auditions.
    """

    task: Task
    wide: Callable[[int], nn.Module]
    time_matched: bool = False
    auditions: bool = False
    extra_baselines: Mapping[str, Callable[[int, int], TrainingResult]] = field(
        default_factory=dict
    )
    data_sha256: Callable[[], str] = str
    selection: Selection = TRIALS
    report_every: int = REPORT_EVERY
    slots: int = SLOTS

    @property
    def name(self) -> str:
        """The name of the suite."""
        return self.task.name

    def suite(self) -> Suite:
        """Return the comparison as a suite."""
        return Suite(
            name=self.name,
            tasks=(self.name,),
            cases=self._cases,
            run=self.run,
            is_live=_is_live,
            depends_on=_depends_on,
            live=self._live,
        )

    def run(self, case: Case, dependency: RunRow | None) -> RunRow:
        """Train one baseline in this process; `dependency` is the grown run of its seed.

        Raises:
            BenchmarkError: the grown run has no row yet.
        """
        if case.control == HOST:
            return self.row(case, train_run(self.task, case.seed, self.task.epochs, no_growth))
        if dependency is None or dependency.params is None:
            raise BenchmarkError(
                f"{case.task}, seed {case.seed}: the grown run is missing; run --control {ESPER} "
                f"before {case.control}"
            )
        if extra := self.extra_baselines.get(case.control):
            return self.row(case, extra(case.seed, dependency.params))
        if case.control in TIME_MATCHED:
            baseline = self._baseline(TIME_MATCHED[case.control], dependency.params)
            limit_s = _total_s(dependency)
            result = train_run(baseline, case.seed, UNLIMITED_EPOCHS, no_growth, limit_s)
            return self.row(case, result)
        baseline = self._baseline(case.control, dependency.params)
        return self.row(case, train_run(baseline, case.seed, baseline.epochs, no_growth))

    def row(
        self,
        case: Case,
        result: TrainingResult,
        *,
        compile_s: float | None = None,
        kept: Sequence[str] = (),
        run_id: str = "",
    ) -> RunRow:
        """Return the row of a run."""
        return row_of(
            case,
            result,
            compile_s=compile_s,
            kept=tuple(kept),
            run_id=run_id,
            data_sha256=self.data_sha256(),
        )

    def _cases(self, task: str, seeds: int) -> Iterator[Case]:
        time_matched = TIME_MATCHED if self.time_matched else ()
        for seed in range(seeds):
            # Time-matched runs directly follow the run whose time they match.
            grown = (ESPER, AUDITIONS) if self.auditions else (ESPER,)
            for control in (*grown, *time_matched, HOST, WIDE, ADAPTERS, *self.extra_baselines):
                yield Case(self.name, task, control, seed)

    def _baseline(self, control: str, params: int) -> Task:
        """Return the task with another host of about `params` parameters."""
        task = self.task
        if control == HOST:
            return task
        if control == WIDE:
            return replace(task, host=lambda: self.wide(params))
        sample = task.load().probe[0][:1]
        with torch.random.fork_rng():
            host = task.host()
            own = sum(parameter.numel() for parameter in host.parameters())
            ranks = ranks_for(adapter_costs(host, task.sites, sample), params - own)
        return replace(task, host=lambda: with_adapters(task.host(), ranks, sample))

    def _live(self) -> AbstractContextManager[Live]:
        return _running(self)


@contextmanager
def _running(comparison: BaselineComparison) -> Iterator[Live]:
    with local_stack(audition_workers=1 if comparison.auditions else 0) as stack:
        publish_blueprints(stack.settings, offered_in(comparison.task))
        compile_s = _compile_s(comparison)

        def live(case: Case) -> Sequence[RunRow]:
            if case.control in (ESPER, AUDITIONS):
                return (_grown(comparison, stack, case, compile_s),)
            grown = Ledger.of(case.suite).get(case._replace(control=ESPER))
            return (comparison.run(case, grown),)

        yield live


def _grown(comparison: BaselineComparison, stack: Stack, case: Case, compile_s: float) -> RunRow:
    """Train a run whose decisions a bandit worker makes, in lockstep."""
    growths: list[Growth] = []
    task, auditions = comparison.task, case.control == AUDITIONS
    selection = AUDITIONED if auditions else comparison.selection

    @contextmanager
    def grows(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Growth]:
        with esper.grow(
            model,
            optimizer,
            sites=task.sites,
            probe=splits.probe,
            loss_fn=task.loss,
            audition=splits.audition_samples if auditions else None,
            run=task.name,
            slots=SLOTS if auditions else comparison.slots,
            report_every=REPORT_EVERY if auditions else comparison.report_every,
            seed=case.seed,
            config=esper.GrowConfig(
                selection=task.allowed(selection),
                settings=stack.settings,
                lockstep=True,
            ),
        ) as growth:
            growths.append(growth)
            yield growth

    result = train_run(task, case.seed, task.epochs, grows)
    growth = growths[0]
    return comparison.row(
        case,
        result,
        compile_s=compile_s,
        kept=kept_names(growth.sites),
        run_id=growth.run_id,
    )


def _compile_s(comparison: BaselineComparison) -> float:
    """Return the seconds in which one process builds all kernels that may be planted."""
    task, builder = comparison.task, KernelBuilder(offered_in(comparison.task))
    sample = task.load().probe[0][:1]
    with torch.random.fork_rng():
        builder.arms(find_sites(task.host(), task.sites, sample, comparison.slots))
    return builder.spent_s


def _is_live(case: Case) -> bool:
    # Live cases run one after another, and a time-matched run must have the machine to itself.
    return case.control in (ESPER, AUDITIONS, *TIME_MATCHED)


def _depends_on(case: Case) -> Case | None:
    if case.control == HOST or _is_live(case):
        return None
    return case._replace(control=ESPER)


def _total_s(row: RunRow) -> float:
    """Return the wall time of a run plus that of building its kernels."""
    return sum(part or 0.0 for part in (row.train_s, row.probe_s, row.wait_s, row.compile_s))
