"""The page of regret says what the kept result says, and shows pictures that are there."""

import re
from pathlib import Path

import pytest

from benchmarks import figures, regret_page, regret_plots
from benchmarks.regret import CONTESTS, LIBRARIES
from benchmarks.result import BenchmarkError
from esper.bandit import POLICIES


def test_the_committed_page_is_what_the_kept_result_says() -> None:
    assert regret_page.DOCUMENT.read_text() == regret_page.render(), (
        "run `python -m benchmarks figures`; first `python -m benchmarks regret --save` if a "
        "policy is new"
    )


def test_every_policy_and_every_library_is_played() -> None:
    played = {player for contest in CONTESTS for player in contest.players}
    assert played == POLICIES.keys() | LIBRARIES.keys()


def test_every_picture_of_the_page_is_kept_and_small() -> None:
    page = regret_page.DOCUMENT
    named = [page.parent / name for name in re.findall(r"!\[.*\]\((.*)\)", page.read_text())]
    assert set(named) == set(regret_plots.draw())
    assert all(file.stat().st_size < 60_000 for file in named)


def test_pictures_drawn_twice_have_the_same_bytes() -> None:
    assert regret_plots.draw() == regret_plots.draw()


def test_a_page_without_a_result_is_an_error_that_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    with pytest.raises(BenchmarkError, match="measure it with `python -m benchmarks regret"):
        regret_page.render()
    with pytest.raises(BenchmarkError, match="measure it with `python -m benchmarks regret"):
        regret_plots.draw()
