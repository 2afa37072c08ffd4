"""The claims about the bandit, and the conditions under which they are reached."""

from collections.abc import Iterable

import pytest

from experiments.evidence.claims import BANDIT, ORACLE, Claim, ResultTable, claim_results, claims
from experiments.evidence.statistics import Difference
from experiments.growth.rows import RunRow

ARMS = {"conv": ("fixed/front/a", "fixed/front/b")}


def rows(control: str, accuracy: Iterable[float], **fields: object) -> list[RunRow]:
    """Return rows of a control of the conv teacher, one seed each."""
    return [
        RunRow.model_validate(
            {
                "suite": "known-answer",
                "task": "conv",
                "control": control,
                "seed": seed,
                "commit": "c",
                "test_accuracy": value,
                **fields,
            }
        )
        for seed, value in enumerate(accuracy)
    ]


def test_each_teacher_has_its_goals() -> None:
    goals = {(c.task, c.than): c.goal for c in claims(("conv", "low-rank", "null"))}
    assert goals == {
        ("conv", "random"): "≥ +5",
        ("conv", "wide"): "≥ +10",
        ("conv", ORACLE): "≥ -3",
        ("low-rank", "random"): "≥ +5",
        ("low-rank", "wide"): "≥ +5",
        ("low-rank", ORACLE): "≥ -3",
        ("null", "host"): "within ±0.5",
    }


GAIN = Claim("conv", "random", "more by", 5)
NEAR = Claim("conv", ORACLE, "less by at most", 3)
SAME = Claim("null", "host", "within", 0.5)


@pytest.mark.parametrize(
    ("claim", "mean", "low", "p", "reached"),
    [
        (GAIN, 6.0, 2.0, 0.01, True),
        (GAIN, 4.9, 2.0, 0.01, False),
        (GAIN, 6.0, -0.1, 0.01, False),
        (GAIN, 6.0, 2.0, 0.06, False),
        (NEAR, -2.9, -4.0, None, True),
        (NEAR, 5.0, 4.0, None, True),
        (NEAR, -3.1, -4.0, None, False),
        (SAME, -0.5, -0.7, None, True),
        (SAME, 0.6, 0.1, None, False),
        (SAME, -0.6, -0.9, None, False),
    ],
)
def test_gain_must_be_large_and_significant_closeness_only_close(
    claim: Claim, mean: float, low: float, p: float | None, reached: bool
) -> None:
    assert claim.holds(Difference(mean, low, mean + 1, p or 1.0, 20), p) is reached


def test_comparison_uses_shared_seeds_without_failures() -> None:
    failed = rows("random", [0.9] * 4)[3].model_copy(update={"error": "no", "test_accuracy": None})
    results = ResultTable([*rows(BANDIT, [0.6] * 4), *rows("random", [0.5] * 3), failed], {})
    difference = results.compare("conv", BANDIT, "random")
    assert difference is not None
    assert (difference.mean, difference.pairs) == (pytest.approx(10.0), 3)


def test_oracle_chooses_by_probe_loss_not_by_test_accuracy() -> None:
    results = ResultTable(
        [
            *rows("host", [0.3], probe_loss=2.0),
            *rows("fixed/front/a", [0.4], probe_loss=0.5),
            *rows("fixed/front/b", [0.9], probe_loss=1.0),
        ],
        ARMS,
    )
    assert results.of("conv", ORACLE)[0].control == "fixed/front/a"


def test_oracle_can_choose_the_host() -> None:
    results = ResultTable(
        [
            *rows("host", [0.9], probe_loss=0.1),
            *rows("fixed/front/a", [0.4], probe_loss=0.5),
            *rows("fixed/front/b", [0.5], probe_loss=1.0),
        ],
        ARMS,
    )
    assert results.of("conv", ORACLE)[0].control == "host"


def test_oracle_exists_only_for_seeds_with_every_arm() -> None:
    results = ResultTable(
        [
            *rows("host", [0.3, 0.3], probe_loss=2.0),
            *rows("fixed/front/a", [0.4, 0.4], probe_loss=0.5),
            *rows("fixed/front/b", [0.9], probe_loss=1.0),
        ],
        ARMS,
    )
    assert set(results.of("conv", ORACLE)) == {0}


def test_p_values_are_corrected_over_all_gains() -> None:
    better = [0.5 + 0.01 * seed for seed in range(20)]
    results = ResultTable(
        [*rows(BANDIT, better), *rows("random", [0.4] * 20), *rows("wide", [0.4] * 20)], {}
    )
    by_control = {result.claim.than: result for result in claim_results(results, ("conv",))}
    assert by_control["random"].p == pytest.approx(2 / 10_001)
    assert by_control["random"].reached and by_control["wide"].reached
    assert by_control[ORACLE].reached is None


def test_right_share_counts_runs() -> None:
    results = ResultTable(
        [*rows(BANDIT, [0.5] * 3, right=True)[:2], *rows(BANDIT, [0.5] * 3)[2:]], {}
    )
    assert results.right_share("conv") == pytest.approx(2 / 3)
    assert results.right_share("null") is None
