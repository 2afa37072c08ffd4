"""MNIST-1D: equal samples in every process, and no trace in the random numbers of the training."""

import random

import numpy as np
import torch

from esper.tasks import MNIST1D, MNIST1D_SHUFFLED, load_mnist1d


def test_the_splits_are_disjoint_parts_of_the_published_size() -> None:
    splits = load_mnist1d()
    assert splits.audition is not None
    parts = (splits.train, splits.audition, splits.probe, splits.test)
    assert [len(lines) for lines, _ in parts] == [2500, 1000, 500, 1000]
    rows = torch.cat([lines for lines, _ in parts])
    assert rows.shape == (5000, 40)
    assert len(rows.unique(dim=0)) == 5000


def test_loading_leaves_the_global_random_numbers_alone() -> None:
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    load_mnist1d()
    assert (random.random(), np.random.rand()) == expected


def test_the_null_world_has_the_same_values_at_other_positions() -> None:
    lines, labels = MNIST1D.load().train
    permuted, same_labels = MNIST1D_SHUFFLED.load().train
    assert torch.equal(labels, same_labels)
    assert not torch.equal(lines, permuted)
    torch.testing.assert_close(lines.sort(1).values, permuted.sort(1).values)


def test_tasks_without_audition_samples_take_the_last_of_the_training_samples() -> None:
    splits = load_mnist1d()
    without = type(splits)(splits.train, splits.probe, splits.test)
    lines, labels = without.audition_samples
    assert torch.equal(lines, splits.train[0][1750:])
    assert len(labels) == 750
