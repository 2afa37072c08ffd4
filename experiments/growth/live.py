"""Runs whose decisions a bandit worker makes, in lockstep on a running stack."""

import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import esper
from esper.settings import Settings
from esper.tasks import DatasetSplits, Samples, Task
from esper.topics.bus import read_topic
from esper.topics.catalog import KERNEL_AUDITIONED
from esper.topics.codec import decode
from esper.topics.models import KernelAuditioned, MemorySnapshot
from esper.training import Growth
from experiments.growth.controls import REPORT_EVERY, SLOTS, SelectionSetup
from experiments.growth.rows import Case


def family_of(suite: str, task: str) -> str:
    """Return the name under which the runs of a task share memory."""
    return f"{suite}-{task}"


def grow_live(
    settings: Settings,
    case: Case,
    task: Task,
    setup: SelectionSetup,
    model: nn.Module,
    optimizer: Optimizer,
    splits: DatasetSplits,
    *,
    memory: bool | MemorySnapshot = False,
    audition: Samples | None = None,
) -> Growth:
    """Attach growth in lockstep to the host of a case."""
    family = family_of(case.suite, case.task)
    return esper.grow(
        model,
        optimizer,
        sites=task.sites,
        probe=splits.probe,
        loss_fn=F.cross_entropy,
        audition=audition,
        run=family,
        slots=SLOTS,
        report_every=REPORT_EVERY,
        seed=case.seed,
        config=esper.GrowConfig(
            family=family,
            policy=setup.policy,
            selection=setup.selection,
            settings=settings,
            lockstep=True,
            memory=memory,
        ),
    )


def auditions_of(kafka: str, run_id: str) -> list[KernelAuditioned]:
    """Return the results of all auditions of a run."""
    records = read_topic(kafka, KERNEL_AUDITIONED.name, key=run_id.encode())
    results = (decode(KernelAuditioned, record.value) for record in records)
    return [result for result in results if result.run_id == run_id]
