"""The page of regret shows the saved result and its plots."""

import re
from pathlib import Path

import pytest

from benchmarks import kept
from benchmarks.result import BenchmarkError
from esper.bandit import POLICIES
from experiments.regret import page, plots
from experiments.regret.play import LIBRARIES
from experiments.regret.setups import EXPERIMENTS


def test_committed_page_matches_the_saved_result() -> None:
    assert page.DOCUMENT.read_text() == page.render(), (
        "run `python -m experiments pages`; for a new policy first "
        "`python -m experiments regret --save`"
    )


def test_every_library_is_played_and_all_other_players_are_policies() -> None:
    played = {agent for experiment in EXPERIMENTS for agent in experiment.agents}
    assert LIBRARIES.keys() <= played <= POLICIES.keys() | LIBRARIES.keys()


def test_a_policy_without_a_setup_is_listed_as_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Not played" not in page.render()
    monkeypatch.setattr(page, "POLICIES", {**POLICIES, "new-policy": object})
    assert "## Not played\n\n`new-policy`\n" in page.render()


def test_every_plot_of_the_page_is_committed_and_small() -> None:
    document = page.DOCUMENT
    linked = [document.parent / name for name in re.findall(r"!\[.*\]\((.*)\)", page.render())]
    assert set(linked) == set(plots.draw())
    assert all(file.stat().st_size < 60_000 for file in linked)


def test_plots_drawn_twice_have_the_same_bytes() -> None:
    assert plots.draw() == plots.draw()


def test_missing_result_is_an_error_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kept.FOLDERS, kept.EXPERIMENTS, tmp_path)
    with pytest.raises(BenchmarkError, match="measure it with `python -m experiments regret"):
        page.render()
    with pytest.raises(BenchmarkError, match="measure it with `python -m experiments regret"):
        plots.draw()
