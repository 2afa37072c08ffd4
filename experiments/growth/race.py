"""Time to a target loss on a GPU: growing, the grown network from the start, each candidate.

All runs share one GPU, one after another, with equal weights and batches. The time is that of
training with growth on its thread, without the evaluations that check the target. The target is
checked on test samples, which no decision uses.
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
from benchmarks.kernels import check_device
from benchmarks.result import BenchmarkError
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from esper.bandit import TRIALS
from esper.kernel import fetch_kernels
from esper.seed import capture_due, find_sites
from esper.tasks import (
    SUMS,
    Attach,
    DatasetSplits,
    NoGrowth,
    Steppable,
    evaluate,
    no_growth,
    train_task,
)
from esper.topics.models import Orchestration, SelectionLimits
from esper.training import Growth, Lineage, read_lineage, static_network, trusted_key_of
from esper.workers.cli import publish_blueprints
from experiments.growth.code_version import code
from experiments.growth.planting import (
    KernelBuilder,
    ScheduledGrower,
    ScheduledPlant,
    kept_names,
    offered_in,
)
from experiments.growth.rows import Case, RunRow
from experiments.growth.suite import Live, Suite

NAME: Final = "race"
DEVICE: Final = "cuda"
GROWN: Final = "esper"
HOST: Final = "host"
STATIC_FINAL: Final = "static-final"
CANDIDATE: Final = "candidate/"
"""Prefix of a control that has one kernel, `site/blueprint`, from the start."""

TARGET: Final = 0.3
"""Target of the test loss. A host that knows only the parity of a sum has ln 5, or 1.6."""

CHECK_EVERY: Final = 10
SLOTS: Final = 2
REPORT_EVERY: Final = 20
SELECTION: Final = TRIALS.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=4, dormant_reports=0, embargo_reports=100),
        "warmup_reports": 6,
        "trial_reports": 3,
        "keep_share": 0.1,
        "orchestration": Orchestration(reweight_reports=2),
    }
)
"""The best of three selections, by time to the target on seeds 1000 to 1003."""

TASK: Final = replace(SUMS, load=cache(SUMS.load))


class TargetWatch:
    """Growth that checks the target loss every few steps; the clock excludes the checks."""

    def __init__(self, model: nn.Module, splits: DatasetSplits, growth: Steppable) -> None:
        self._model, self._samples, self._growth = model, splits.test, growth
        self._steps = 0
        self._checking_s = 0.0
        self._began = _now()
        self.reached_s: float | None = None

    @property
    def passed_s(self) -> float:
        """Seconds so far, without the checks."""
        return _now() - self._began - self._checking_s

    def step(self, loss: Tensor) -> None:
        """Grow, and check the target if due."""
        self._growth.step(loss)
        self._steps += 1
        if self._steps % CHECK_EVERY:
            return
        passed_s = self.passed_s
        began = _now()
        if evaluate(self._model, TASK.loss, self._samples)[0] <= TARGET:
            self.reached_s = passed_s
        self._model.train()
        self._checking_s += _now() - began


def _now() -> float:
    torch.cuda.synchronize()
    return perf_counter()


class CaptureOnly(NoGrowth):
    """No growth, but sites are captured as CUDA graphs like those of a grown network."""

    def step(self, loss: Tensor) -> None:
        """Capture the sites that are due."""
        capture_due()


class RaceRunner:
    """Trains the runs of the race; only grown runs use the stack."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._lineages: dict[int, Lineage] = {}
        publish_blueprints(stack.settings, offered_in(TASK))
        _row(Case(NAME, TASK.name, HOST, 0), TASK.host, no_growth, epochs=1)

    def __call__(self, case: Case) -> Sequence[RunRow]:
        """Train one run until it reaches the target, or to the end of its epochs.

        Raises:
            BenchmarkError: the control needs a grown run that this process did not train.
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

    def _grown(self, case: Case) -> RunRow:
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
        kept = kept_names(growth.sites)
        return row.model_copy(update={"kept": kept, "run_id": growth.run_id})

    def _static_final(self, case: Case) -> RunRow:
        if case.seed not in self._lineages:
            raise BenchmarkError(
                f"{STATIC_FINAL}, seed {case.seed}: the lineage of its grown run exists only in "
                f"the process that trained it; run both with --again --control {GROWN} "
                f"--control {STATIC_FINAL}"
            )
        lineage, settings = self._lineages[case.seed], self._stack.settings
        kernels = fetch_kernels(settings.kernel_store_spec, trusted_key_of(settings), lineage.seeds)
        sample = TASK.load().probe[0][:1].to(DEVICE)

        def host() -> nn.Module:
            fresh = TASK.host().to(DEVICE)
            return static_network(fresh, lineage, kernels, sample).model if lineage.seeds else fresh

        row = _row(case, host, lambda *_: nullcontext(CaptureOnly()))
        kept = tuple(f"{seed.site}/{seed.ready.blueprint_id}" for seed in lineage.seeds)
        return row.model_copy(update={"kept": kept})


def _row(
    case: Case, host: Callable[[], nn.Module], grows: Attach, epochs: int = TASK.epochs
) -> RunRow:
    """Train one run and return its row."""
    watches: list[TargetWatch] = []
    cpu_began = process_time()

    @contextmanager
    def attach(
        model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
    ) -> Iterator[TargetWatch]:
        with grows(model, optimizer, splits) as growth:
            watch = TargetWatch(model, splits, growth)
            watches.append(watch)
            yield watch
            spent_s.append(watch.passed_s)

    spent_s: list[float] = []
    task = replace(TASK, host=host)
    with one_thread():
        result = train_task(
            task,
            case.seed,
            epochs,
            attach,
            device=DEVICE,
            should_stop=lambda: watches[0].reached_s is not None,
        )
    return RunRow(
        **case._asdict(),
        commit=code(),
        test_accuracy=result.test_accuracy,
        test_loss=result.test_loss,
        params=result.params,
        steps=result.steps,
        train_s=spent_s[0],
        cpu_s=process_time() - cpu_began,
        reached_s=watches[0].reached_s,
        device=torch.cuda.get_device_name(),
    )


@contextmanager
def _from_the_start(
    arm: str, model: nn.Module, optimizer: Optimizer, splits: DatasetSplits
) -> Iterator[Steppable]:
    """Plant one kernel before the first step."""
    site, _, blueprint_id = arm.rpartition("/")
    builder = KernelBuilder(offered_in(TASK))
    planting = ScheduledPlant(0, site, blueprint_id)
    sample = splits.probe[0][:1]
    grower = ScheduledGrower(model, optimizer, TASK.sites, sample, builder, [planting], 0, SLOTS)
    yield CaptureOnly()
    grower.close()


@cache
def _candidates() -> tuple[str, ...]:
    """Return a control per kernel that may be planted."""
    sites = find_sites(TASK.host(), TASK.sites, TASK.load().probe[0][:1], SLOTS)
    return tuple(
        f"{CANDIDATE}{site}/{name}" for site, name in KernelBuilder(offered_in(TASK)).arms(sites)
    )


def cases(task: str, seeds: int) -> Iterator[Case]:
    """Yield the runs; those of one seed follow each other, because they are compared."""
    for seed in range(seeds):
        for control in (GROWN, STATIC_FINAL, HOST, *_candidates()):
            yield Case(NAME, task, control, seed)


@contextmanager
def live() -> Iterator[Live]:
    """Start broker, store and workers.

    Raises:
        BenchmarkError: torch finds no GPU.
    """
    check_device(DEVICE)
    with local_stack() as stack, TemporaryDirectory() as folder:
        yield RaceRunner(stack, Path(folder))


def _never_offline(case: Case, dependency: RunRow | None) -> RunRow:
    raise BenchmarkError(f"{case.control} is timed and cannot run in parallel; run it live")


SUITE: Final = Suite(
    name=NAME,
    tasks=(TASK.name,),
    cases=cases,
    run=_never_offline,
    is_live=lambda case: True,
    depends_on=lambda case: None,
    live=live,
)
