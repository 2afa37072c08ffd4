"""The pages of figures show the saved results and name the missing ones."""

from pathlib import Path

import pytest

from benchmarks import figures, kept
from benchmarks.result import BenchmarkError, Goal, Result, figure, ratio


def result_of(
    name: str, *, quick: bool = False, values: tuple[float, ...] = (1.0, 3.0, 2.0)
) -> Result:
    """Return a result of `decide`: 8 arms take `values` µs, 10,000 arms meet the goal."""
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
    """Return an empty folder of results."""
    for package in kept.FOLDERS:
        monkeypatch.setitem(kept.FOLDERS, package, tmp_path)
    return tmp_path


def test_committed_pages_match_the_committed_results() -> None:
    hint = "run `python -m benchmarks figures`"
    assert figures.DOCUMENT.read_text() == figures.render(), hint
    pages = figures.render_pages()
    assert {file: file.read_text() for file in figures.FOLDER.glob("*.md")} == pages, hint


def test_reached_goal_is_shown_with_its_medians_and_a_link(results: Path) -> None:
    (results / "decide.json").write_text(result_of("decide").to_json())

    row = line_of("one decision, 8 arms")

    assert row.endswith("| ≤ 10 µs and ≤ 150 µs | 2 µs, 9 µs | yes | [decide](figures/decide.md) |")


def test_page_shows_median_spread_and_n_of_a_goal(results: Path) -> None:
    (results / "decide.json").write_text(result_of("decide").to_json())

    assert "| 8 arms | **2 µs** (1.5 to 2.5, n 3) | ≤ 10 | yes |" in page_of("decide")


def test_missed_goal_is_shown_with_the_reason(results: Path) -> None:
    (results / "decide.json").write_text(result_of("decide", values=(11.0, 12.0)).to_json())

    assert "| **no** |" in line_of("one decision, 8 arms")
    assert "Not reached: each numpy operation on the arm arrays" in page_of("decide")


def test_missing_result_is_shown_as_not_measured(results: Path) -> None:
    assert "| not measured yet |" in line_of("one decision, 8 arms")


def test_goal_without_figures_links_to_its_page(results: Path) -> None:
    assert "[evidence](evidence.md) |" in line_of("test accuracy, bandit less random")
    assert (figures.DOCUMENT.parent / "evidence.md").exists()


def test_every_link_of_the_committed_document_exists() -> None:
    links = [
        line.rpartition("](")[2].removesuffix(") |")
        for line in figures.DOCUMENT.read_text().splitlines()
        if "](" in line
    ]
    assert links
    assert all((figures.DOCUMENT.parent / link).exists() for link in links)


def test_quick_result_is_not_rendered(results: Path) -> None:
    (results / "decide.json").write_text(result_of("decide", quick=True).to_json())

    with pytest.raises(BenchmarkError, match=r"decide.json is from a quick run.*measure it with"):
        figures.render()


def test_result_without_a_figure_of_a_goal_is_an_error(results: Path) -> None:
    without = result_of("decide").model_copy(update={"figures": ()})
    (results / "decide.json").write_text(without.to_json())

    with pytest.raises(BenchmarkError, match="decide has no figure 'choice-8'; measure it again"):
        figures.render()


def test_saved_result_has_one_line_per_figure(results: Path) -> None:
    result = result_of("decide")
    kept.save(result)

    lines = (results / "decide.json").read_text().splitlines()
    assert sum(line.startswith('{"key": ') for line in lines) == len(result.figures)
    assert kept.kept_result("decide") == result


def test_ratio_is_taken_pair_by_pair() -> None:
    measured = ratio("key", "title", ("ours", [2.0, 30.0, 8.0]), ("theirs", [1.0, 10.0, 2.0]))

    assert measured.median == 3.0
    assert measured.sides["ours"].median == 8.0
    assert measured.sides["theirs"].median == 2.0


def test_goal_can_limit_the_worst_value() -> None:
    goal = Goal(sense="at most", limit=1.0, of="worst")

    assert figure("key", "title", "ms", [0.5, 0.9], goal=goal).reached
    assert not figure("key", "title", "ms", [0.5, 0.5, 1.1], goal=goal).reached


def test_figure_without_values_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        figure("key", "title", "ms", [])


def line_of(title: str) -> str:
    """Return the row of the goal whose title starts with these words."""
    return next(line for line in figures.render().splitlines() if line.startswith(f"| {title}"))


def page_of(name: str) -> str:
    """Return the page of a result."""
    return figures.render_pages()[figures.FOLDER / f"{name}.md"]
