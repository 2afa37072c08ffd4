"""The document is what the kept results say, and says what is missing."""

from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.result import BenchmarkError, Goal, Result, figure, ratio


def kept(name: str, *, quick: bool = False, values: tuple[float, ...] = (1.0, 3.0, 2.0)) -> Result:
    """A result of `decide` whose 8 arms take these values and whose 10,000 are within the goal."""
    return Result(
        name=name,
        quick=quick,
        machine={"cores": 2},
        commit="0123456789ab",
        modified=False,
        parameters={"rounds": 3},
        figures=(
            figure("choice-8", "8 arms", "µs", values, goal=Goal(sense="at most", limit=10)),
            figure("choice-10000", "many", "µs", [9.0], goal=Goal(sense="at most", limit=150)),
        ),
    )


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of results."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    return tmp_path


def test_the_committed_document_is_what_the_committed_results_say() -> None:
    assert figures.DOCUMENT.read_text() == figures.render(), "run `python -m benchmarks figures`"


def test_a_reached_goal_is_shown_with_median_spread_and_n(results: Path) -> None:
    (results / "decide.json").write_text(kept("decide").to_json())

    row = line_of("one decision, 8 arms")

    assert "8 arms: **2 µs** (1.5 to 2.5, n 3), goal ≤ 10" in row
    assert row.endswith("| yes | `python -m benchmarks decide` |")


def test_a_missed_goal_is_shown_with_the_reason(results: Path) -> None:
    (results / "decide.json").write_text(kept("decide", values=(11.0, 12.0)).to_json())

    assert "| no: each operation on columns" in line_of("one decision, 8 arms")


def test_what_was_not_measured_is_said(results: Path) -> None:
    assert "| not measured yet |" in line_of("one decision, 8 arms")


def test_what_has_a_page_of_its_own_is_found_there(results: Path) -> None:
    row = line_of("bandit less random")
    assert "| see [evidence.md](evidence.md) |  | `python -m benchmarks growth --suite" in row
    assert (figures.DOCUMENT.parent / "evidence.md").exists()


def test_a_quick_result_is_not_rendered(results: Path) -> None:
    (results / "decide.json").write_text(kept("decide", quick=True).to_json())

    with pytest.raises(BenchmarkError, match=r"decide.json is from a quick run; measure it with"):
        figures.render()


def test_a_result_without_a_figure_that_has_a_goal_is_an_error(results: Path) -> None:
    without = kept("decide").model_copy(update={"figures": ()})
    (results / "decide.json").write_text(without.to_json())

    with pytest.raises(BenchmarkError, match="decide has no figure 'choice-8'; measure it again"):
        figures.render()


def test_a_ratio_is_taken_pair_by_pair() -> None:
    measured = ratio("key", "what", ("ours", [2.0, 30.0, 8.0]), ("theirs", [1.0, 10.0, 2.0]))

    assert measured.median == 3.0
    assert measured.sides["ours"].median == 8.0
    assert measured.sides["theirs"].median == 2.0


def test_a_goal_may_be_about_the_worst() -> None:
    goal = Goal(sense="at most", limit=1.0, of="worst")

    assert figure("key", "what", "ms", [0.5, 0.9], goal=goal).reached
    assert not figure("key", "what", "ms", [0.5, 0.5, 1.1], goal=goal).reached


def test_nothing_measured_is_an_error_and_not_a_figure() -> None:
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        figure("key", "what", "ms", [])


def line_of(what: str) -> str:
    """The row of the goal that begins with these words."""
    return next(line for line in figures.render().splitlines() if line.startswith(f"| {what}"))
