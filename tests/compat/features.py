"""Ways to train that a grown host must support, as functions of a model."""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from esper.seed import EagerReason, capture_due
from tests.seed.hosts import images, labels

STEPS: Final = 6
"""Enough steps that a GPU replays the last ones from a graph: the first three record it."""

Train = Callable[[nn.Module], nn.Module]
"""Trains a model; returns the model to compare: itself, or an averaged copy."""

Call = Callable[[nn.Module, Tensor], Tensor]


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def batch_for(model: nn.Module, step: int) -> Tensor:
    return images(8, seed=step).to(device_of(model))


def loss_of(model: nn.Module, step: int, call: Call = lambda model, x: model(x)) -> Tensor:
    y = labels(8, seed=step).to(device_of(model))
    return F.cross_entropy(call(model, batch_for(model, step)), y)


def finish(optimizer: Optimizer) -> None:
    """End a training step after the optimizer's, in a loop without `grow`."""
    optimizer.zero_grad()
    capture_due()


def plainly(model: nn.Module, optimizer: Optimizer | None = None, call: Call | None = None) -> None:
    optimizer = optimizer or SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        loss = loss_of(model, step, call) if call else loss_of(model, step)
        loss.backward()
        optimizer.step()
        finish(optimizer)


def in_bfloat16(model: nn.Module) -> nn.Module:
    def call(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = model(x)
        return logits.float()

    plainly(model, call=call)
    return model


def in_float16_scaled(model: nn.Module) -> nn.Module:
    kind = device_of(model).type
    optimizer, scaler = SGD(model.parameters(), lr=0.05), torch.amp.GradScaler(kind)
    for step in range(STEPS):
        with torch.autocast(kind, torch.float16):
            loss = loss_of(model, step)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        finish(optimizer)
    return model


def channels_last(model: nn.Module) -> nn.Module:
    model.to(memory_format=torch.channels_last)
    plainly(model, call=lambda model, x: model(x.to(memory_format=torch.channels_last)))
    return model


def accumulating(model: nn.Module) -> nn.Module:
    optimizer = SGD(model.parameters(), lr=0.05)
    for step in range(2 * STEPS):
        (loss_of(model, step) / 2).backward()
        if step % 2:
            optimizer.step()
            finish(optimizer)
    return model


def checkpointing(model: nn.Module) -> nn.Module:
    plainly(model, call=lambda model, x: checkpoint(model, x, use_reentrant=False))
    return model


def checkpointing_reentrant(model: nn.Module) -> nn.Module:
    plainly(model, call=lambda model, x: checkpoint(model, x.requires_grad_(), use_reentrant=True))
    return model


def scheduled(model: nn.Module) -> nn.Module:
    optimizer = SGD(model.parameters(), lr=0.05)
    schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.step()
        schedule.step()
        finish(optimizer)
    return model


def foreach(model: nn.Module) -> nn.Module:
    plainly(model, Adam(model.parameters(), foreach=True))
    return model


def fused(model: nn.Module) -> nn.Module:
    plainly(model, AdamW(model.parameters(), fused=True))
    return model


def with_closure(model: nn.Module) -> nn.Module:
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):

        def closure(step: int = step) -> float:
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss.item()

        optimizer.step(closure)
        capture_due()
    return model


def averaged(model: nn.Module) -> nn.Module:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        loss_of(model, step).backward()
        optimizer.step()
        finish(optimizer)
        average.update_parameters(model)
    kept: nn.Module = average.module
    return kept


def functionally(model: nn.Module) -> nn.Module:
    plainly(model)
    x = batch_for(model, 0)
    doubled = {name: 2 * value.detach() for name, value in model.named_parameters()}
    expected = functional_call(model, doubled, (x,))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(doubled[name])
        assert torch.equal(model(x), expected)
    return model


def anomalies_watched(model: nn.Module) -> nn.Module:
    with torch.autograd.set_detect_anomaly(True):
        plainly(model)
    return model


def clipped(model: nn.Module) -> nn.Module:
    optimizer = SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        loss_of(model, step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        finish(optimizer)
    return model


def frozen_host(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("kernel" in name)
    plainly(model, SGD([one for one in model.parameters() if one.requires_grad], lr=0.05))
    return model


ROUNDED: Final = 1e-5
"""Tolerance of float32 on a GPU: a graph folds alpha into weights and sums all kernels at once."""

HALF: Final = 1e-3
"""The same for bfloat16 and float16."""


class Feature(NamedTuple):
    """A way to train, and the tolerance of outputs on a CPU and on a GPU.

    `on_gpu` is None if not tested there. `eager` is the reason why a planted site on a GPU must not
    replay graphs; None: the site must replay them.
    """

    train: Train
    within: float = 0.0
    on_gpu: float | None = ROUNDED
    eager: EagerReason | None = None


FEATURES: Final = {
    "autocast to bfloat16": Feature(in_bfloat16, on_gpu=HALF),
    "autocast to float16, GradScaler": Feature(in_float16_scaled, on_gpu=HALF),
    "`channels_last`": Feature(channels_last, 1e-5),
    "gradient accumulation": Feature(accumulating),
    "gradient checkpointing": Feature(checkpointing, on_gpu=0.0, eager=EagerReason.CHECKPOINT),
    "gradient checkpointing, reentrant": Feature(
        checkpointing_reentrant, on_gpu=0.0, eager=EagerReason.CHECKPOINT
    ),
    "learning rate schedules": Feature(scheduled),
    "`foreach` optimizers": Feature(foreach),
    "fused optimizers": Feature(fused, 1e-6),
    "optimizers with a closure": Feature(with_closure),
    "gradient clipping": Feature(clipped, 1e-6),
    "averaged copies (EMA, SWA)": Feature(averaged),
    "`torch.func.functional_call`": Feature(functionally),
    "anomaly detection": Feature(
        anomalies_watched, on_gpu=0.0, eager=EagerReason.ANOMALY_DETECTION
    ),
    "a frozen host": Feature(frozen_host),
}
