"""Two ranks train on GPUs, one each if there are two, what one process does; else skipped."""

from pathlib import Path

import pytest
import torch

from tests.seed.ranks import run_on_ranks
from tests.seed.two_ranks import CASES, RANKS, full_precision, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each rank has left the weights of each case."""
    made = tmp_path_factory.mktemp("ranks")
    run_on_ranks("tests.seed.two_ranks", RANKS, made, "cuda")
    return made


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_a_gpu_train_what_one_process_does_on_the_joined_batch(
    folder: Path, case: str
) -> None:
    full_precision()
    expected = trained(case, None, "cuda").model.state_dict()
    one, other = (
        torch.load(folder / f"{case}-{rank}.pt", weights_only=True, map_location="cuda")
        for rank in range(RANKS)
    )
    for name, value in expected.items():
        torch.testing.assert_close(one[name], value, rtol=0, atol=TOLERANCE, msg=name)
        assert torch.equal(one[name], other[name])
