"""The race to a target loss: its cases, and its section of the evidence page."""

import pytest
import torch

from benchmarks.result import BenchmarkError
from experiments.evidence.race_section import COMMAND, section
from experiments.growth import race
from experiments.growth.race import CANDIDATE, GROWN, HOST, STATIC_FINAL
from experiments.growth.rows import RunRow


def row(control: str, seed: int, reached_s: float | None, train_s: float = 30.0) -> RunRow:
    """Return a run that reached the target after `reached_s`, or never in `train_s`."""
    return RunRow(
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


def rows(control: str, *reached_s: float | None) -> list[RunRow]:
    """Return runs of one control, one seed each."""
    return [row(control, seed, seconds) for seed, seconds in enumerate(reached_s)]


def line(text: str, control: str) -> str:
    """Return the line of a control."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{control}`"))


def test_every_kernel_is_a_candidate_of_every_seed() -> None:
    controls = [case.control for case in race.cases("sums", 2)]
    assert controls.count(GROWN) == controls.count(STATIC_FINAL) == controls.count(HOST) == 2
    candidates = [control for control in controls if control.startswith(CANDIDATE)]
    assert len(candidates) == 2 * (4 * 3 + 4) == 2 * len(set(candidates))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_run_starts_and_the_page_shows_the_command() -> None:
    with pytest.raises(BenchmarkError, match="no GPU"), race.live():
        pass
    text = section([])
    assert "Not run" in text
    assert COMMAND in text


def test_times_are_compared_by_ratios_of_pairs() -> None:
    grown = rows(GROWN, 10.0, 20.0, 40.0)
    text = section(grown + rows(STATIC_FINAL, 20.0, 40.0, 80.0) + rows(HOST, 5.0, 40.0, 20.0))
    assert "2.00 (2.00 to 2.00) | ≥ 1.1 | above |" in line(text, STATIC_FINAL)
    assert "| 0.79 (0.50 to 2.00) |  |  |" in line(text, HOST)


def test_mean_above_the_goal_with_a_wider_interval_is_marked() -> None:
    text = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 8.0, 20.0, 12.0))
    assert "| above, its interval not |" in line(text, STATIC_FINAL)
    text = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 8.0, 9.0, 12.0))
    assert "| **below** |" in line(text, STATIC_FINAL)


def test_run_without_the_target_counts_with_its_whole_time() -> None:
    text = section(rows(GROWN, 10.0, 10.0, 10.0) + rows(STATIC_FINAL, 30.0, None, 30.0))
    assert "| 2 of 3 | 30.0 | 3.00 (3.00 to 3.00) |" in line(text, STATIC_FINAL)


def test_candidates_are_summed_over_seeds_with_all_of_them() -> None:
    first, second = (
        rows(f"{CANDIDATE}hidden/a", 10.0, 20.0, 20.0),
        rows(f"{CANDIDATE}hidden/b", 9.0, 20.0),
    )
    text = section(rows(GROWN, 10.0, 20.0, 20.0) + first + second)
    assert "| 5 of 5 | 29.5 | 1.95 | about 2: ≥ 1.6 | above |" in line(text, "candidates")
