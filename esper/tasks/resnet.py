"""A small residual network on enlarged digits: enough work for a GPU to matter."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from esper.tasks.digits import load_digits
from esper.tasks.train import DatasetSplits, Samples, Task

SIDE: Final = 32
WIDTH: Final = 16
BLOCKS: Final = 2


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip (He et al., Deep Residual Learning, 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride) for (B, inputs, H, W)."""
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.skip(x))


class ResNetHost(nn.Module):
    """A convolution, three stages of two blocks, and a hidden layer before the logits."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        first, second, third = width, 2 * width, 4 * width
        self.stem = nn.Conv2d(1, first, 3, padding=1)
        self.stage1 = _stage(first, first, stride=1)
        self.stage2 = _stage(first, second, stride=2)
        self.stage3 = _stage(second, third, stride=2)
        self.hidden = nn.Linear(third, third)
        self.logits = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for images (B, 1, H, W)."""
        x = self.stage3(self.stage2(self.stage1(F.relu(self.stem(x)))))
        x = F.relu(self.hidden(x.mean((2, 3))))
        logits: Tensor = self.logits(x)
        return logits


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = (ResidualBlock(outputs, outputs, stride=1) for _ in range(BLOCKS - 1))
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)


def load_enlarged() -> DatasetSplits:
    """Return the digits as images (N, 1, 32, 32), bilinearly interpolated."""
    splits = load_digits()
    return DatasetSplits(*(_enlarged(part) for part in (splits.train, splits.probe, splits.test)))


def _enlarged(samples: Samples) -> Samples:
    images, labels = samples
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear"), labels


RESNET: Final = Task(
    name="resnet",
    summary="the same images at 32x32, a residual network of eight sites",
    host=ResNetHost,
    sites=(
        "stem",
        *(f"stage{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(BLOCKS)),
        "hidden",
    ),
    load=load_enlarged,
    epochs=10,
)
