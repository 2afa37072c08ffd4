"""A network that grows by gromo 0.1.0, on the splits of the digits task.

Verbockhaven et al., Growing Tiny Networks: Spotting Expressivity Bottlenecks and Fixing Them
Optimally, 2024. It grows as the library's tutorial has it: neurons are added to one layer after
another, from statistics over the training samples, and scaled by a search over the training loss.
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

from benchmarks.growth.widening import Size, widened
from esper.tasks.train import Samples

SIZES: Final = (Size(4), Size(8), Size(6))
"""What may grow: channels between the convolutions of either stage, and hidden units."""

OUT: Final = (4, 8)
"""Channels that leave the stages: those of the host of the task."""

CLASSES: Final = 10
SIDE: Final = 8
SCALES: Final = (0.1, 0.25, 0.5, 1.0)
"""What new neurons are scaled by, whichever is best; the tutorial tries 0 too.

By 0 they would have no weights on either side, and never learn any.
"""


class Schedule(NamedTuple):
    """How the network learns and grows: `rounds` at even distances within `share` of the epochs.

    It starts with `start` of each size that grows.
    """

    learning_rate: float
    start: float
    rounds: int
    share: float
    normalised: bool


class Grown(NamedTuple):
    """The network at the end, its steps, and the seconds that growing it took beside them."""

    model: nn.Module
    steps: int
    growth_s: float


def params_of(first: int, second: int, hidden: int, *, normalised: bool) -> int:
    """Return the parameters of a network of these sizes."""
    inner, outer = OUT
    places = SIDE // 4 * (SIDE // 4)
    return sum(
        (
            (9 + 1) * first,
            (9 * first + 1) * inner,
            (9 * inner + 1) * second,
            (9 * second + 1) * outer,
            (places * outer + 1) * hidden,
            (hidden + 1) * CLASSES,
            # A scale and a shift for every channel.
            2 * (first + inner + second + outer) if normalised else 0,
        )
    )


def target_for(params: int, *, normalised: bool) -> tuple[int, ...]:
    """Return sizes with which the network has as near to `params` as can be."""
    return widened(SIZES, partial(params_of, normalised=normalised), params)


def network(sizes: Sequence[int], target: Sequence[int], *, normalised: bool) -> VGG:
    """Return a network of these sizes that may grow to the target's."""
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


def grow_by_gromo(
    samples: Samples, seed: int, epochs: int, batch: int, params: int, schedule: Schedule
) -> Grown:
    """Train from a seed for so many epochs, while the network grows to about `params`."""
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
                wanted = first + round((last - first) * number / schedule.rounds)
                _grow(model, layer, wanted, samples, batch)
            # Its parameters are others now.
            optimizer = Adam(model.parameters(), lr=schedule.learning_rate)
            growth_s += perf_counter() - began
        model.train()
        for inputs, labels in _batches(samples, batch, shuffle):
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    return Grown(model, steps, growth_s)


def _grow(model: VGG, index: int, wanted: int, samples: Samples, batch: int) -> None:
    """Add neurons before a layer, until it has as many inputs as are wanted."""
    model.set_growing_layers(index=index)
    (layer,) = model._growing_layers
    more = wanted - layer.in_neurons
    if more <= 0:
        return
    for statistic in (layer.tensor_s, layer.tensor_m):
        # Release 0.1.0 expects a wrong shape, once a convolution with biases has grown.
        statistic._shape = None
    model.eval()
    model.init_computation()
    for inputs, labels in _batches(samples, batch):
        model.zero_grad()
        # A sum: the library takes the mean over samples itself.
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
    for some in torch.split(order, batch):
        yield inputs[some], labels[some]
