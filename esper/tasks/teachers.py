"""Known-answer tasks: a teacher labels samples by a structure that the host lacks.

Which kernel the host needs, and where, is known, so that what growth chooses can be judged. The
host passes its input through a bottleneck; what that hides, no kernel behind it brings back.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from esper.tasks.train import Splits, Task

SIDE: Final = 8
INPUTS: Final = SIDE * SIDE
BOTTLENECK: Final = 4
HIDDEN: Final = 24
CLASSES: Final = 10
FILTERS: Final = 8
SIZES: Final = (4000, 500, 2000)
"""Samples to train, to probe and to test."""


class StudentHost(nn.Module):
    """1,168 parameters: a bottleneck of 4 between 64 inputs and two hidden layers of 24."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Linear(INPUTS, BOTTLENECK, bias=False), nn.Linear(BOTTLENECK, HIDDEN, bias=False)
        )
        self.middle = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.back = nn.Linear(HIDDEN, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10) for samples (B, 64)."""
        logits: Tensor = self.back(F.relu(self.middle(F.relu(self.front(x)))))
        return logits


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A task with the site and the blueprint that give its host what it lacks."""

    task: Task
    site: str
    blueprint_id: str


def conv_teacher(seed: int = 0) -> KnownAnswer:
    """Return a task whose labels follow from patterns of 3x3 in images of 8x8, wherever they are.

    `seed` makes the teacher and its samples.
    """
    return KnownAnswer(
        task=Task(
            name="conv-teacher",
            summary="patterns in 8x8 images, a flat host of 1,168 parameters that cannot see them",
            host=StudentHost,
            sites=("front", "middle", "back"),
            load=lambda: _labelled_by_patterns(seed),
            epochs=32,
            learning_rate=1e-2,
        ),
        site="front",
        blueprint_id="image-conv",
    )


def _labelled_by_patterns(seed: int) -> Splits:
    """Return normal samples (N, 64), labelled 0 to 9 by a map of pooled responses of filters."""
    random = Generator().manual_seed(seed)
    samples = torch.randn(sum(SIZES), INPUTS, generator=random)
    filters = torch.randn(FILTERS, 1, 3, 3, generator=random)
    images = samples.view(-1, 1, SIDE, SIDE)
    pooled = F.relu(F.conv2d(images, filters, padding=1)).mean(dim=(2, 3))
    pooled = (pooled - pooled.mean(dim=0)) / pooled.std(dim=0)
    labels = (pooled @ torch.randn(FILTERS, CLASSES, generator=random)).argmax(dim=1)
    sizes = list(SIZES)
    return Splits(*zip(torch.split(samples, sizes), torch.split(labels, sizes), strict=True))


CONV_TEACHER: Final = conv_teacher()
