"""A race to a target loss on a GPU: growing, the grown network from the start, each candidate.

All run one after another on one GPU, from the same weights and with the same batches. Time is that
of training, with all that growth does on its thread; what is spent on looking whether the target is
reached is not. It is looked for on test samples, of which nothing is decided.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import esper
from benchmarks.growth.origin import code
from benchmarks.growth.planting import Gardener, Planting, Workshop, kept_in, offered_in
from benchmarks.growth.rows import Case, Row
from benchmarks.growth.suite import Live, Suite
from benchmarks.kernels import check_device
from benchmarks.result import BenchmarkError
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from esper.bandit import DEFAULT_SELECTION
from esper.kernel import fetch_kernels
from esper.seed import capture_due, find_sites
from esper.tasks.sums import SUMS
from esper.tasks.train import (
    Attach,
    DatasetSplits,
    NoGrowth,
    Steppable,
    evaluate,
    no_growth,
    train_task,
)
from esper.topics.models import Orchestration, SelectionLimits
from esper.training import Growth
from esper.training.lineage import Lineage, read_lineage
from esper.training.link_config import trusted_key_of
from esper.training.static import static_network
from esper.workers.cli import publish_blueprints

NAME: Final = "race"
DEVICE: Final = "cuda"
GROWN: Final = "esper"
HOST: Final = "host"
STATIC_FINAL: Final = "static-final"
CANDIDATE: Final = "candidate/"
"""What stands before the site and the blueprint of the one kernel that is there from the start."""

TARGET: Final = 0.3
"""Of the test loss. A host that knows the parity of a sum only stands at ln 5, or 1.6."""

LOOK_EVERY: Final = 10
SLOTS: Final = 2
REPORT_EVERY: Final = 20
SELECTION: Final = DEFAULT_SELECTION.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=4, dormant_reports=0, embargo_reports=100),
        "warmup_reports": 6,
        "trial_reports": 3,
        "keep_share": 0.1,
        "orchestration": Orchestration(reweight_reports=2),
    }
)
"""The best of three, by the time to the target on seeds 1000 to 1003."""

TASK: Final = replace(SUMS, load=cache(SUMS.load))


class Finish:
    """Growth with a finish behind it: looks every few steps whether the target is reached.

    Its clock stands still meanwhile.
    """

    def __init__(self, model: nn.Module, splits: DatasetSplits, growth: Steppable) -> None:
        self._model, self._samples, self._growth = model, splits.test, growth
        self._steps = 0
        self._looked_s = 0.0
        self._began = _now()
        self.reached_s: float | None = None

    @property
    def passed_s(self) -> float:
        """Seconds so far, without those in which it was looked."""
        return _now() - self._began - self._looked_s

    def step(self, loss: Tensor) -> None:
        """Grow, and look if it is time."""
        self._growth.step(loss)
        self._steps += 1
        if self._steps % LOOK_EVERY:
            return
        passed_s = self.passed_s
        looked = _now()
        if evaluate(self._model, TASK.loss, self._samples)[0] <= TARGET:
            self.reached_s = passed_s
        self._model.train()
        self._looked_s += _now() - looked


def _now() -> float:
    torch.cuda.synchronize()
    return perf_counter()


class Captured(NoGrowth):
    """Growth that does nothing but to record sites as graphs, as those of a grown network are."""

    def step(self, loss: Tensor) -> None:
        """Record what is due."""
        capture_due()


class Race:
    """The runs of the race, beside a stack; those that are not grown leave it alone."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._lineages: dict[int, Lineage] = {}
        publish_blueprints(stack.settings, offered_in(TASK))
        _row(Case(NAME, TASK.name, HOST, 0), TASK.host, no_growth, epochs=1)

    def __call__(self, case: Case) -> Sequence[Row]:
        """Train one run until it has reached the target, or its epochs are over.

        Raises:
            BenchmarkError: it has the shape of a run that this command did not make.
        """
        if case.control == GROWN:
            return (self._grown(case),)
        if case.control == HOST:
            return (_row(case, TASK.host, no_growth),)
        if case.control == STATIC_FINAL:
            return (self._static_final(case),)
        arm = case.control.removeprefix(CANDIDATE)
        row = _row(case, TASK.host, partial(_from_the_start, arm))
        return (row.model_copy(update={"kept": (arm,)}),)

    def _grown(self, case: Case) -> Row:
        growths: list[Growth] = []

        def grows(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Growth:
            growth = esper.grow(
                model,
                optimizer,
                sites=TASK.sites,
                probe=splits.probe,
                loss_fn=TASK.loss,
                run=NAME,
                slots=SLOTS,
                report_every=REPORT_EVERY,
                seed=case.seed,
                config=esper.GrowConfig(
                    selection=TASK.allowed(SELECTION), settings=self._stack.settings
                ),
            )
            growths.append(growth)
            return growth

        row, growth = _row(case, TASK.host, grows), growths[0]
        self._lineages[case.seed] = read_lineage(growth.export(self._folder / growth.run_id))
        kept = kept_in(growth.sites)
        return row.model_copy(update={"kept": kept, "run_id": growth.run_id})

    def _static_final(self, case: Case) -> Row:
        if case.seed not in self._lineages:
            raise BenchmarkError(
                f"its shape is the lineage of the grown run of seed {case.seed}, which this "
                f"command did not make; run both: --again --control {GROWN} "
                f"--control {STATIC_FINAL}"
            )
        lineage, settings = self._lineages[case.seed], self._stack.settings
        kernels = fetch_kernels(settings.store_url or "", trusted_key_of(settings), lineage.seeds)
        sample = TASK.load().probe[0][:1].to(DEVICE)

        def host() -> nn.Module:
            fresh = TASK.host().to(DEVICE)
            return static_network(fresh, lineage, kernels, sample).model if lineage.seeds else fresh

        row = _row(case, host, lambda *_: nullcontext(Captured()))
        kept = tuple(f"{seed.site}/{seed.ready.blueprint_id}" for seed in lineage.seeds)
        return row.model_copy(update={"kept": kept})


def _row(
    case: Case, host: Callable[[], nn.Module], grows: Attach, epochs: int = TASK.epochs
) -> Row:
    """Train one run, and return its row."""
    finishes: list[Finish] = []
    cpu_began = process_time()

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Finish]:
        with grows(model, optimizer, splits) as growth:
            finish = Finish(model, splits, growth)
            finishes.append(finish)
            yield finish
            spent_s.append(finish.passed_s)

    spent_s: list[float] = []
    task = replace(TASK, host=host)
    with one_thread():
        result = train_task(
            task,
            case.seed,
            epochs,
            attach,
            device=DEVICE,
            should_stop=lambda: finishes[0].reached_s is not None,
        )
    return Row(
        **case._asdict(),
        commit=code(),
        test_accuracy=result.test_accuracy,
        test_loss=result.test_loss,
        params=result.params,
        steps=result.steps,
        train_s=spent_s[0],
        cpu_s=process_time() - cpu_began,
        reached_s=finishes[0].reached_s,
        device=torch.cuda.get_device_name(),
    )


@contextmanager
def _from_the_start(
    arm: str, model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
) -> Iterator[Steppable]:
    """Plant one kernel before the first step."""
    site, _, blueprint_id = arm.rpartition("/")
    workshop = Workshop(offered_in(TASK))
    planting = Planting(0, site, blueprint_id)
    sample = splits.probe[0][:1]
    gardener = Gardener(model, optimizer, TASK.sites, sample, workshop, [planting], 0, SLOTS)
    yield Captured()
    gardener.close()


@cache
def _candidates() -> tuple[str, ...]:
    """Return all kernels that may be planted, as controls."""
    sites = find_sites(TASK.host(), TASK.sites, TASK.load().probe[0][:1], SLOTS)
    return tuple(
        f"{CANDIDATE}{site}/{name}" for site, name in Workshop(offered_in(TASK)).arms(sites)
    )


def cases(task: str, seeds: int) -> Iterator[Case]:
    """Yield the runs; those of one seed one after another, as they are compared."""
    for seed in range(seeds):
        for control in (GROWN, STATIC_FINAL, HOST, *_candidates()):
            yield Case(NAME, task, control, seed)


@contextmanager
def live() -> Iterator[Live]:
    """Bring up broker, store and workers.

    Raises:
        BenchmarkError: there is no GPU.
    """
    check_device(DEVICE)
    with local_stack() as stack, TemporaryDirectory() as folder:
        yield Race(stack, Path(folder))


def _alone(case: Case, leant_on: Row | None) -> Row:
    raise BenchmarkError("these runs are timed; none runs beside another")


SUITE: Final = Suite(
    name=NAME,
    tasks=(TASK.name,),
    cases=cases,
    run=_alone,
    is_live=lambda case: True,
    leans_on=lambda case: None,
    live=live,
)
