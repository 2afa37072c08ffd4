"""The conv teacher: only the known kernel at the known site raises the test accuracy."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.seed import find_sites
from esper.tasks import CONV_TEACHER, StudentHost, conv_teacher
from esper.tasks.train import DatasetSplits, no_growth, train_task
from esper.training.optimizer import OptimizerMembership
from tests.seed.conftest import one_thread
from tests.seed.kernels import plant

__all__ = ["one_thread"]

EPOCHS = 16
PLANTED_AT = 200


class Planter:
    """A stand-in for growth that plants one kernel at one step."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, site: str, blueprint: str) -> None:
        self._model, self._optimizer = model, optimizer
        self._site, self._blueprint = site, blueprint
        self._steps = 0

    def step(self, loss: Tensor) -> None:
        self._steps += 1
        if self._steps == PLANTED_AT:
            site = find_sites(self._model, [self._site], torch.zeros(1, 64), 1)[self._site]
            grown = plant(site, 0, self._blueprint).named_parameters()
            OptimizerMembership(self._optimizer).add(site.name, site.layer, grown)


def accuracy_with(site: str, blueprint: str) -> float:
    """Return the test accuracy of the host with one kernel planted."""

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Planter]:
        yield Planter(model, optimizer, site, blueprint)

    return train_task(CONV_TEACHER.task, 0, EPOCHS, attach).test_accuracy


@pytest.fixture(scope="module")
def baseline() -> float:
    """Return the test accuracy of the host without kernels."""
    return train_task(CONV_TEACHER.task, 0, EPOCHS, no_growth).test_accuracy


def test_the_host_has_1168_parameters() -> None:
    assert sum(parameter.numel() for parameter in StudentHost().parameters()) == 1168


def test_no_sample_is_in_two_splits_and_every_split_has_all_classes() -> None:
    splits = CONV_TEACHER.task.load()
    samples = torch.cat([part[0] for part in (splits.train, splits.probe, splits.test)])
    assert len(samples.unique(dim=0)) == len(samples) == 6500
    for _, labels in (splits.train, splits.probe, splits.test):
        assert labels.unique().tolist() == list(range(10))


def test_a_seed_determines_the_teacher_and_its_samples() -> None:
    one, again, other = (conv_teacher(seed).task.load().test for seed in (3, 3, 4))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])


def test_the_right_kernel_at_the_right_site_raises_the_accuracy(
    baseline: float,
) -> None:
    right = accuracy_with(CONV_TEACHER.site, CONV_TEACHER.blueprint_id)
    assert right > baseline + 0.2


@pytest.mark.parametrize(
    ("site", "blueprint"), [("middle", "image-conv"), ("front", "channel-mixing-mlp")]
)
def test_a_wrong_site_or_a_wrong_kernel_does_not_raise_the_accuracy(
    baseline: float, site: str, blueprint: str
) -> None:
    assert accuracy_with(site, blueprint) < baseline + 0.05
