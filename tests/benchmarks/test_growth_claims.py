"""What is claimed of the bandit, and when it is held to be shown."""

from collections.abc import Iterable

import pytest

from benchmarks.growth.claims import BANDIT, ORACLE, Claim, Results, claims, verdicts
from benchmarks.growth.rows import Row
from benchmarks.growth.statistics import Difference

ARMS = {"conv": ("fixed/front/a", "fixed/front/b")}


def rows(control: str, accuracy: Iterable[float], **told: object) -> list[Row]:
    """Rows of a control of the conv teacher, a seed each."""
    return [
        Row.model_validate(
            {
                "suite": "known-answer",
                "task": "conv",
                "control": control,
                "seed": seed,
                "commit": "c",
                "test_accuracy": value,
                **told,
            }
        )
        for seed, value in enumerate(accuracy)
    ]


def test_goals_are_those_of_each_teacher() -> None:
    told = {(c.task, c.than): c.goal for c in claims(("conv", "low-rank", "null"))}
    assert told == {
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
def test_a_gain_must_be_large_and_sure_nearness_only_near(
    claim: Claim, mean: float, low: float, p: float | None, reached: bool
) -> None:
    assert claim.holds(Difference(mean, low, mean + 1, p or 1.0, 20), p) is reached


def test_only_seeds_of_both_are_compared_and_failures_are_not() -> None:
    failed = rows("random", [0.9] * 4)[3].model_copy(update={"error": "no", "test_accuracy": None})
    results = Results([*rows(BANDIT, [0.6] * 4), *rows("random", [0.5] * 3), failed], {})
    difference = results.compare("conv", BANDIT, "random")
    assert difference is not None
    assert (difference.mean, difference.pairs) == (pytest.approx(10.0), 3)


def test_the_oracle_chooses_by_probe_loss_and_never_by_the_test() -> None:
    results = Results(
        [
            *rows("host", [0.3], probe_loss=2.0),
            *rows("fixed/front/a", [0.4], probe_loss=0.5),
            *rows("fixed/front/b", [0.9], probe_loss=1.0),
        ],
        ARMS,
    )
    assert results.of("conv", ORACLE)[0].control == "fixed/front/a"


def test_the_oracle_may_plant_nothing() -> None:
    results = Results(
        [
            *rows("host", [0.9], probe_loss=0.1),
            *rows("fixed/front/a", [0.4], probe_loss=0.5),
            *rows("fixed/front/b", [0.5], probe_loss=1.0),
        ],
        ARMS,
    )
    assert results.of("conv", ORACLE)[0].control == "host"


def test_there_is_no_oracle_of_seeds_at_which_an_arm_was_not_run() -> None:
    results = Results(
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
    results = Results(
        [*rows(BANDIT, better), *rows("random", [0.4] * 20), *rows("wide", [0.4] * 20)], {}
    )
    told = {verdict.claim.than: verdict for verdict in verdicts(results, ("conv",))}
    assert told["random"].p == pytest.approx(2 / 10_001)
    assert told["random"].reached and told["wide"].reached
    assert told[ORACLE].reached is None


def test_the_right_share_counts_runs() -> None:
    results = Results([*rows(BANDIT, [0.5] * 3, right=True)[:2], *rows(BANDIT, [0.5] * 3)[2:]], {})
    assert results.right_share("conv") == pytest.approx(2 / 3)
    assert results.right_share("null") is None
