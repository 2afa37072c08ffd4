"""Pairs of digits side by side, labelled by the last digit of their sum; a residual network."""

from functools import partial
from typing import Final

import torch
from torch import Tensor

from esper.tasks.resnet import ResNetHost, load_enlarged
from esper.tasks.train import DatasetSplits, Samples, Task

WIDTH: Final = 64
"""Channels of the first stage, as in ResNet-18 (He et al., Deep Residual Learning, 2016)."""

PAIRS: Final = {"train": 16_384, "probe": 256, "test": 2_048}

BLUEPRINTS: Final = (
    "squeeze-excite",
    "pointwise-mix",
    "depthwise-separable",
    "conv-bottleneck",
    "gated-linear-unit",
    "low-rank-skip",
    "dropout-mlp",
    "gated-residual",
)


def load_sums() -> DatasetSplits:
    """Return pairs of enlarged digits as images (N, 1, 32, 64), and the last digits of their sums.

    No digit is in pairs of two splits. The pairs are drawn with a fixed seed.
    """
    splits = load_enlarged()
    generator = torch.Generator().manual_seed(0)
    return DatasetSplits(
        train=_pairs(splits.train, PAIRS["train"], generator),
        probe=_pairs(splits.probe, PAIRS["probe"], generator),
        test=_pairs(splits.test, PAIRS["test"], generator),
    )


def _pairs(samples: Samples, count: int, generator: torch.Generator) -> Samples:
    images, labels = samples
    first, second = torch.randint(len(labels), (2, count), generator=generator)
    together: Tensor = torch.cat((images[first], images[second]), dim=-1)
    return together, (labels[first] + labels[second]) % 10


SUMS: Final = Task(
    name="sums",
    summary="two digits in 32x64 images and the last digit of their sum, a residual network",
    host=partial(ResNetHost, WIDTH),
    sites=("stage1.1.conv2", "stage2.1.conv2", "stage3.1.conv2", "hidden"),
    load=load_sums,
    epochs=12,
    batch=128,
    blueprints=BLUEPRINTS,
)
