"""The page of evidence is what its rows say, and no row says more than it does."""

import pytest

from benchmarks.growth import contest_page, page
from benchmarks.growth.contest_page import CONTESTS, section
from benchmarks.growth.rows import Row

DIGITS, CHARLM = CONTESTS


def rows(suite: str, control: str, *values: float) -> list[Row]:
    """Runs of one control, a seed each, with so much accuracy and loss."""
    return [
        Row(
            suite=suite,
            task=suite,
            control=control,
            seed=seed,
            commit="0123456789ab",
            test_accuracy=value,
            test_loss=value,
            params=900,
        )
        for seed, value in enumerate(values)
    ]


def line(text: str, control: str) -> str:
    """The line of a control."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{control}`"))


def test_the_committed_page_is_rendered_from_the_committed_rows() -> None:
    assert page.DOCUMENT.read_text() == page.render(), "run `python -m benchmarks growth --page`"


@pytest.mark.parametrize(
    ("wide", "reached"), [((0.90, 0.91, 0.92), "yes"), ((0.95, 0.96, 0.97), "**no**")]
)
def test_non_inferior_is_what_is_above_the_margin_as_a_whole(
    wide: tuple[float, ...], reached: str
) -> None:
    told = section(DIGITS, rows("digits", "esper", 0.9, 0.91, 0.92) + rows("digits", "wide", *wide))
    assert f"| ≥ -0.5 | {reached} |" in line(told, "wide")


def test_of_a_loss_less_is_better() -> None:
    told = section(
        CHARLM, rows("charlm", "esper", 1.7, 1.7, 1.7) + rows("charlm", "wide", 1.8, 1.8, 1.8)
    )
    assert "| +0.100 (+0.100 to +0.100) | > 0 | yes |" in line(told, "wide")


def test_no_better_is_not_better() -> None:
    same = rows("charlm", "esper", 1.7, 1.7), rows("charlm", "wide", 1.7, 1.7)
    assert "| > 0 | **no** |" in line(section(CHARLM, same[0] + same[1]), "wide")


def test_what_was_run_on_other_seeds_is_compared_with_nothing() -> None:
    (other,) = rows("digits", "wide", 0.5)
    told = section(DIGITS, [*rows("digits", "esper", 0.9), other.model_copy(update={"seed": 7})])
    assert "yes" not in line(told, "wide")


def test_failed_runs_are_counted_and_not_averaged() -> None:
    (failed,) = rows("digits", "esper", 0.1)
    failed = failed.model_copy(update={"seed": 9, "error": "so it goes"})
    told = section(DIGITS, [*rows("digits", "esper", 0.9, 0.9), failed])
    assert "3 runs, of which 1 failed" in told
    assert "**90.0**" in line(told, "esper")


def test_a_contest_without_rows_has_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest_page, "CONTESTS", (DIGITS._replace(suite="nothing-was-run"),))
    assert contest_page.sections() == []
