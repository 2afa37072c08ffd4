"""Two ranks on one or two GPUs train the same as one process; skipped without a GPU."""

from pathlib import Path

import pytest
import torch

from tests.seed.ranks import run_on_ranks
from tests.seed.two_ranks import CASES, RANKS, full_precision, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the weights of each case and rank."""
    made = tmp_path_factory.mktemp("ranks")
    run_on_ranks("tests.seed.two_ranks", RANKS, made, "cuda")
    return made


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_on_a_gpu_train_the_same_as_one_process_on_the_joined_batch(
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
