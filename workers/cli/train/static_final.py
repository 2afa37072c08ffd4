"""Train the static final of an exported run: the same network, complete from the first step."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from esper.kernel import fetch_kernels
from esper.settings import Settings
from esper.tasks import OnEpoch, Task, TaskResult, evaluate, train_task
from esper.training import (
    StaticNetwork,
    load_exported,
    read_lineage,
    static_network,
    trusted_key_of,
)


@dataclass(frozen=True, slots=True)
class NetworkScore:
    """A network's score on the test samples of its task."""

    test_accuracy: float
    test_loss: float
    params: int


@dataclass(frozen=True, slots=True)
class StaticRun:
    """A trained static final, and the score of the grown network it is compared with."""

    run_id: str
    result: TaskResult
    grown: NetworkScore
    exported: Path


def train_static_final(
    settings: Settings,
    task: Task,
    folder: Path,
    *,
    kernel_store: str,
    seed: int,
    epochs: int,
    export_under: Path,
    on_epoch: OnEpoch,
    device: str = "cpu",
) -> StaticRun:
    """Train the static final of the run exported to `folder`, and export it under `export_under`.

    The kernels come from the store; no broker is needed. This runs the folder's `model.py`.

    Raises:
        LineageUnreadable, StaticNetworkRefused, SiteRefused: the folder does not fit the task.
        KernelMissing, StoreUnavailable, ArtifactRefused: a kernel cannot be loaded or fails
            verification.
        NotConfigured: no trusted key is configured.
    """
    torch.set_num_threads(1)
    lineage = read_lineage(folder)
    kernels = fetch_kernels(
        kernel_store, trusted_key_of(settings), lineage.seeds, settings.store_credentials
    )
    splits = task.load()
    planted: list[StaticNetwork] = []

    def host() -> nn.Module:
        # Kernels are built for a site on a device, so the host moves there first.
        sample = splits.probe[0][:1].to(device)
        planted.append(static_network(task.host().to(device), lineage, kernels, sample))
        return planted[0].model

    result = train_task(replace(task, host=host), seed, epochs, on_epoch=on_epoch, device=device)
    grown = load_exported(folder).to(device)
    loss, accuracy = evaluate(grown, task.loss, splits.to(device).test)
    return StaticRun(
        run_id=lineage.run_id,
        result=result,
        grown=NetworkScore(accuracy, loss, sum(p.numel() for p in grown.parameters())),
        exported=planted[0].export(export_under / f"{lineage.run_id}-static-final"),
    )
