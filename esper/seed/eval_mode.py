"""Evaluation mode without side effects on the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; at exit restore training modes and random number states."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    model.eval()
    try:
        # A host may draw random numbers in evaluation too; training must not notice.
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
