"""The evidence page shows its rows, and judges goals by whole intervals."""

import pytest

from experiments.evidence import baselines_section, page
from experiments.evidence.baselines_section import BASELINE_REPORTS, section
from experiments.growth.rows import RunRow

DIGITS, CHARLM = BASELINE_REPORTS


def rows(suite: str, control: str, *values: float) -> list[RunRow]:
    """Return runs of one control, one seed each, with these accuracies and losses."""
    return [
        RunRow(
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
    """Return the line of a control."""
    return next(line for line in text.splitlines() if line.startswith(f"| `{control}`"))


def test_committed_page_matches_the_committed_rows() -> None:
    assert page.DOCUMENT.read_text() == page.render(), "run `python -m experiments pages`"


@pytest.mark.parametrize(
    ("wide", "reached"), [((0.90, 0.91, 0.92), "yes"), ((0.95, 0.96, 0.97), "**no**")]
)
def test_goal_is_reached_if_the_whole_interval_is_above_the_margin(
    wide: tuple[float, ...], reached: str
) -> None:
    text = section(DIGITS, rows("digits", "esper", 0.9, 0.91, 0.92) + rows("digits", "wide", *wide))
    assert f"| ≥ -0.5 | {reached} |" in line(text, "wide")


def test_lower_loss_is_better() -> None:
    text = section(
        CHARLM, rows("charlm", "esper", 1.7, 1.7, 1.7) + rows("charlm", "wide", 1.8, 1.8, 1.8)
    )
    assert "| +0.100 (+0.100 to +0.100) | > 0 | yes |" in line(text, "wide")


def test_equal_loss_does_not_reach_a_goal_above_zero() -> None:
    same = rows("charlm", "esper", 1.7, 1.7), rows("charlm", "wide", 1.7, 1.7)
    assert "| > 0 | **no** |" in line(section(CHARLM, same[0] + same[1]), "wide")


def test_runs_of_other_seeds_are_not_compared() -> None:
    (other,) = rows("digits", "wide", 0.5)
    text = section(DIGITS, [*rows("digits", "esper", 0.9), other.model_copy(update={"seed": 7})])
    assert "yes" not in line(text, "wide")


def test_failed_runs_are_counted_and_not_averaged() -> None:
    (failed,) = rows("digits", "esper", 0.1)
    failed = failed.model_copy(update={"seed": 9, "error": "it failed"})
    text = section(DIGITS, [*rows("digits", "esper", 0.9, 0.9), failed])
    assert "3 runs, 1 of them failed" in text
    assert "**90.0**" in line(text, "esper")


def test_comparison_without_rows_has_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        baselines_section, "BASELINE_REPORTS", (DIGITS._replace(suite="nothing-was-run"),)
    )
    assert baselines_section.sections() == []
