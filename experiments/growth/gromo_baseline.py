"""Baseline: a network that gromo 0.1.0 grows, on the splits of the digits task.

Verbockhaven et al., Growing Tiny Networks: Spotting Expressivity Bottlenecks and Fixing Them
Optimally, 2024. Growth follows the library's tutorial: neurons are added to one layer after
another from statistics over the training samples, and scaled by a line search on training loss.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from gromo.containers.vgg import VGG
from torch import Tensor, nn
from torch.optim import Adam

from esper.tasks import Samples
from experiments.growth.widening import Size, widened

SIZES: Final = (Size(4), Size(8), Size(6))
"""Sizes that grow: channels between the convolutions of either stage, and hidden units."""

OUT: Final = (4, 8)
"""Output channels of the two stages, as in the task's host."""

CLASSES: Final = 10
SIDE: Final = 8
SCALES: Final = (0.1, 0.25, 0.5, 1.0)
"""Scales of new neurons to search. The tutorial also tries 0.

A scale of 0 leaves zero weights on both sides, whose gradients stay zero.
"""


class Schedule(NamedTuple):
    """Growth in `rounds`, evenly spaced within the first `share` of the epochs.

    The network starts with the fraction `start` of each target size; `normalised`: batch norm.
    """

    learning_rate: float
    start: float
    rounds: int
    share: float
    normalised: bool


class GromoResult(NamedTuple):
    """The trained network, its training steps, and the seconds spent on growing."""

    model: nn.Module
    steps: int
    growth_s: float


def params_of(first: int, second: int, hidden: int, *, normalised: bool) -> int:
    """Return the parameters of a network of these sizes."""
    inner, outer = OUT
    positions = SIDE // 4 * (SIDE // 4)
    return sum(
        (
            (9 + 1) * first,
            (9 * first + 1) * inner,
            (9 * inner + 1) * second,
            (9 * second + 1) * outer,
            (positions * outer + 1) * hidden,
            (hidden + 1) * CLASSES,
            # A scale and a shift for every channel.
            2 * (first + inner + second + outer) if normalised else 0,
        )
    )


def target_for(params: int, *, normalised: bool) -> tuple[int, ...]:
    """Return the sizes whose network is closest to `params` parameters."""
    return widened(SIZES, partial(params_of, normalised=normalised), params)


def network(sizes: Sequence[int], target: Sequence[int], *, normalised: bool) -> VGG:
    """Return a network of these sizes that can grow to the target sizes."""
    cfg, target_cfg = (
        [first, OUT[0], "M", second, OUT[1], "M"] for first, second, _ in (sizes, target)
    )
    return VGG(
        cfg=cfg,
        target_cfg=target_cfg,
        in_features=1,
        activation=nn.ReLU(),
        normalization="batch" if normalised else None,
        num_classes=CLASSES,
        dropout=0.0,
        number_of_fc_layers=2,
        fc_layer_width=target[2],
        initial_fc_layer_width=sizes[2],
        input_spatial_shape=(SIDE, SIDE),
        device="cpu",
    )


def grow_with_gromo(
    samples: Samples, seed: int, epochs: int, batch: int, params: int, schedule: Schedule
) -> GromoResult:
    """Train for `epochs` while the network grows to about `params` parameters."""
    target = target_for(params, normalised=schedule.normalised)
    torch.manual_seed(seed)
    start = [max(1, round(schedule.start * size)) for size in target]
    model = network(start, target, normalised=schedule.normalised)
    shuffle = torch.Generator().manual_seed(seed)
    due = {
        round((number + 1) * schedule.share * epochs / (schedule.rounds + 1)): number + 1
        for number in range(schedule.rounds)
    }
    optimizer = Adam(model.parameters(), lr=schedule.learning_rate)
    steps, growth_s = 0, 0.0
    for epoch in range(epochs):
        if number := due.get(epoch):
            began = perf_counter()
            for layer, (first, last) in enumerate(zip(start, target, strict=True)):
                size = first + round((last - first) * number / schedule.rounds)
                _grow(model, layer, size, samples, batch)
            # Growing replaces the parameters.
            optimizer = Adam(model.parameters(), lr=schedule.learning_rate)
            growth_s += perf_counter() - began
        model.train()
        for inputs, labels in _batches(samples, batch, shuffle):
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    return GromoResult(model, steps, growth_s)


def _grow(model: VGG, index: int, size: int, samples: Samples, batch: int) -> None:
    """Add neurons before layer `index`, until it has `size` inputs."""
    model.set_growing_layers(index=index)
    (layer,) = model._growing_layers
    more = size - layer.in_neurons
    if more <= 0:
        return
    for statistic in (layer.tensor_s, layer.tensor_m):
        # Release 0.1.0 expects a wrong shape after a convolution with biases has grown.
        statistic._shape = None
    model.eval()
    model.init_computation()
    for inputs, labels in _batches(samples, batch):
        model.zero_grad()
        # Sum, because the library divides by the samples.
        F.cross_entropy(model(inputs), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        model.update_computation()
    model.compute_optimal_updates(maximum_added_neurons=more)
    model.reset_computation()
    model.dummy_select_update()
    model.set_scaling_factor(min(SCALES, key=lambda scale: _loss_at(model, scale, samples)))
    model.apply_change()
    model.zero_grad()


def _loss_at(model: VGG, scale: float, samples: Samples) -> float:
    model.set_scaling_factor(scale)
    inputs, labels = samples
    with torch.no_grad():
        return float(F.cross_entropy(model.extended_forward(inputs), labels))


def _batches(
    samples: Samples, batch: int, shuffle: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, labels = samples
    count = len(inputs)
    order = torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)
    for chosen in torch.split(order, batch):
        yield inputs[chosen], labels[chosen]
