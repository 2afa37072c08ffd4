"""The race to a target loss: what runs, and what the page says of it."""

import pytest
import torch

from benchmarks.growth import race
from benchmarks.growth.race import CANDIDATE, GROWN, HOST, STATIC_FINAL
from benchmarks.growth.race_page import COMMAND, section
from benchmarks.growth.rows import Row
from benchmarks.result import BenchmarkError


def row(control: str, seed: int, reached_s: float | None, train_s: float = 30.0) -> Row:
    """A run that reached the target after so long, or not at all in `train_s`."""
    return Row(
        suite="race",
        task="sums",
        control=control,
        seed=seed,
        commit="0123456789ab",
        reached_s=reached_s,
        train_s=reached_s or train_s,
        steps=100,
        device="some GPU",
    )


def rows(control: str, *reached_s: float | None) -> list[Row]:
    """Runs of one control, a seed each."""
    return [row(control, seed, each) for seed, each in enumerate(reached_s)]


def line(text: str, control: str) -> str:
    """The line of a control."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{control}`"))


def test_every_kernel_that_may_be_planted_is_a_candidate_of_every_seed() -> None:
    controls = [case.control for case in race.cases("sums", 2)]
    assert controls.count(GROWN) == controls.count(STATIC_FINAL) == controls.count(HOST) == 2
    candidates = [control for control in controls if control.startswith(CANDIDATE)]
    assert len(candidates) == 2 * (4 * 3 + 4) == 2 * len(set(candidates))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_runs_and_the_page_gives_the_command() -> None:
    with pytest.raises(BenchmarkError, match="no GPU"), race.live():
        pass
    told = section([])
    assert "Not run" in told
    assert COMMAND in told


def test_times_are_compared_by_ratios_of_pairs() -> None:
    grown = rows(GROWN, 10.0, 20.0, 40.0)
    told = section(grown + rows(STATIC_FINAL, 20.0, 40.0, 80.0) + rows(HOST, 5.0, 40.0, 20.0))
    assert "2.00 (2.00 to 2.00) | ≥ 1.1 | above |" in line(told, STATIC_FINAL)
    assert "| 0.79 (0.50 to 2.00) |  |  |" in line(told, HOST)


def test_a_mean_above_the_goal_whose_interval_is_not_says_so() -> None:
    told = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 8.0, 20.0, 12.0))
    assert "| above, its interval not |" in line(told, STATIC_FINAL)
    told = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 8.0, 9.0, 12.0))
    assert "| **below** |" in line(told, STATIC_FINAL)


def test_what_did_not_reach_the_target_counts_with_all_of_its_time() -> None:
    told = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 30.0, None, 30.0))
    assert "| 2 of 3 | 30.0 | 3.00 (3.00 to 3.00) |" in line(told, STATIC_FINAL)


def test_candidates_count_together_where_every_one_was_run() -> None:
    one, other = (
        rows(f"{CANDIDATE}hidden/a", 10.0, 20.0, 20.0),
        rows(f"{CANDIDATE}hidden/b", 9.0, 20.0),
    )
    told = section(rows(GROWN, 10.0, 20.0, 20.0) + one + other)
    assert "| 5 of 5 | 29.5 | 1.95 | about 2: ≥ 1.6 | above |" in line(told, "candidates")
