"""Two ranks train the same as one process on whole batches, including kernels planted later."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.seed.ranks import run_on_ranks
from tests.seed.two_ranks import CASES, RANKS, trained

TOLERANCE = 1e-6
"""A mean of two means is rounded differently from the mean of all."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the weights of each case and rank."""
    made = tmp_path_factory.mktemp("ranks")
    run_on_ranks("tests.seed.two_ranks", RANKS, made)
    return made


def of_rank(folder: Path, case: str, rank: int) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(folder / f"{case}-{rank}.pt", weights_only=True)
    return weights


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_the_same_as_one_process_on_the_joined_batch(
    folder: Path, case: str
) -> None:
    expected = trained(case, None).model.state_dict()
    found = of_rank(folder, case, 0)
    assert expected.keys() == found.keys()
    assert any("kernel" in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_ranks_stay_equal_bit_for_bit(folder: Path, case: str) -> None:
    one, other = (of_rank(folder, case, rank) for rank in range(RANKS))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_nothing_is_reduced_under_no_sync(folder: Path) -> None:
    one, other = (
        torch.load(folder / f"without_sync_between-{rank}-unreduced.pt", weights_only=True)
        for rank in range(RANKS)
    )
    assert len(one) > 1
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_a_model_of_several_processes_must_be_wrapped(folder: Path) -> None:
    for rank in range(RANKS):
        message = (folder / f"unwrapped-{rank}").read_text()
        assert message.startswith(
            "this is one of 2 processes, and each would grow a different network"
        )
