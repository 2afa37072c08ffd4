"""A task that grows through the whole stack, beside rivals of as many parameters, or as much time.

Seeds are the pairs: the same weights to begin with, where the hosts are the same, and batches in
the same order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

import esper
from benchmarks.growth.adapters import adapter_costs, ranks_for, with_adapters
from benchmarks.growth.planting import Workshop, kept_in, offered_in
from benchmarks.growth.rows import Case, Ledger, Row
from benchmarks.growth.suite import Live, Suite
from benchmarks.growth.training import Trained, row_of, trained
from benchmarks.result import BenchmarkError
from benchmarks.stack import Stack, local_stack
from esper.bandit import DEFAULT_SELECTION
from esper.seed import find_sites
from esper.tasks.train import DatasetSplits, Task, no_growth
from esper.topics.models import Selection
from esper.training import Growth
from esper.workers.cli import publish_blueprints
from esper.workers.cli.train import REPORT_EVERY

ESPER: Final = "esper"
HOST: Final = "host"
WIDE: Final = "wide"
ADAPTERS: Final = "adapters"
LASTING: Final = {"host-as-long": HOST, "wide-as-long": WIDE}
"""Those that are trained for as long as the grown run took, all that it waited for counted."""

SLOTS: Final = 2
"""Seeds of each site."""

UNENDING: Final = 1000
"""Epochs of what ends by the clock."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A task, and what there is beside it.

    `wide` makes its host with about so many parameters; `others` are rivals of their own kind, by
    name, told the seed and the parameters to reach.
    """

    task: Task
    wide: Callable[[int], nn.Module]
    lasting: bool = False
    others: Mapping[str, Callable[[int, int], Trained]] = field(default_factory=dict)
    data_sha256: Callable[[], str] = str
    selection: Selection = DEFAULT_SELECTION
    report_every: int = REPORT_EVERY
    slots: int = SLOTS

    @property
    def name(self) -> str:
        """The name of the suite."""
        return self.task.name

    def suite(self) -> Suite:
        """Return the contest as the runner has it."""
        return Suite(
            name=self.name,
            tasks=(self.name,),
            cases=self._cases,
            run=self.run,
            is_live=_is_live,
            leans_on=_leans_on,
            live=self._live,
        )

    def run(self, case: Case, leant_on: Row | None) -> Row:
        """Train one rival, in this process.

        Raises:
            BenchmarkError: it has as many parameters as a run, or as long, that is not on record.
        """
        if case.control == HOST:
            return self.row(case, trained(self.task, case.seed, self.task.epochs, no_growth))
        if leant_on is None or leant_on.params is None:
            raise BenchmarkError(f"seed {case.seed} of {case.task} has not grown yet; let it first")
        if other := self.others.get(case.control):
            return self.row(case, other(case.seed, leant_on.params))
        if case.control in LASTING:
            rival = self._rival(LASTING[case.control], leant_on.params)
            lasting_s = _lasted_s(leant_on)
            return self.row(case, trained(rival, case.seed, UNENDING, no_growth, lasting_s))
        rival = self._rival(case.control, leant_on.params)
        return self.row(case, trained(rival, case.seed, rival.epochs, no_growth))

    def row(
        self,
        case: Case,
        result: Trained,
        *,
        compile_s: float | None = None,
        kept: Sequence[str] = (),
        run_id: str = "",
    ) -> Row:
        """Return what a run came to."""
        return row_of(
            case,
            result,
            compile_s=compile_s,
            kept=tuple(kept),
            run_id=run_id,
            data_sha256=self.data_sha256(),
        )

    def _cases(self, task: str, seeds: int) -> Iterator[Case]:
        lasting = LASTING if self.lasting else ()
        for seed in range(seeds):
            # Those that go by the clock come right after what they are to last as long as.
            for control in (ESPER, *lasting, HOST, WIDE, ADAPTERS, *self.others):
                yield Case(self.name, task, control, seed)

    def _rival(self, control: str, params: int) -> Task:
        """Return the task with another host, of about so many parameters."""
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
def _running(contest: Contest) -> Iterator[Live]:
    with local_stack() as stack:
        publish_blueprints(stack.settings, offered_in(contest.task))
        compile_s = _compile_s(contest)

        def live(case: Case) -> Sequence[Row]:
            if case.control == ESPER:
                return (_grown(contest, stack, case, compile_s),)
            grown = Ledger.of(case.suite).get(case._replace(control=ESPER))
            return (contest.run(case, grown),)

        yield live


def _grown(contest: Contest, stack: Stack, case: Case, compile_s: float) -> Row:
    """Train a run that a bandit worker decides, in lockstep."""
    growths: list[Growth] = []
    task = contest.task

    @contextmanager
    def grows(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Growth]:
        with esper.grow(
            model,
            optimizer,
            sites=task.sites,
            probe=splits.probe,
            loss_fn=task.loss,
            run=task.name,
            slots=contest.slots,
            report_every=contest.report_every,
            seed=case.seed,
            config=esper.GrowConfig(
                selection=task.allowed(contest.selection), settings=stack.settings, lockstep=True
            ),
        ) as growth:
            growths.append(growth)
            yield growth

    result = trained(task, case.seed, task.epochs, grows)
    growth = growths[0]
    return contest.row(
        case,
        result,
        compile_s=compile_s,
        kept=kept_in(growth.sites),
        run_id=growth.run_id,
    )


def _compile_s(contest: Contest) -> float:
    """Return the seconds in which one process builds all kernels that may be planted."""
    workshop = Workshop(offered_in(contest.task))
    sample = contest.task.load().probe[0][:1]
    with torch.random.fork_rng():
        workshop.arms(find_sites(contest.task.host(), contest.task.sites, sample, contest.slots))
    return workshop.spent_s


def _is_live(case: Case) -> bool:
    # Those that go by the clock too: nothing else may train beside them.
    return case.control == ESPER or case.control in LASTING


def _leans_on(case: Case) -> Case | None:
    if case.control == HOST or _is_live(case):
        return None
    return case._replace(control=ESPER)


def _lasted_s(row: Row) -> float:
    """Return how long a run took, and the building of its kernels."""
    return sum(each or 0.0 for each in (row.train_s, row.probe_s, row.wait_s, row.compile_s))
