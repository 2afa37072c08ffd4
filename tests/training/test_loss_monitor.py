"""What is an alarm and what is not: numbers in, an alarm or none out."""

import math
import random
from collections.abc import Iterable, Iterator
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.topics.models import IncidentKind
from esper.training.loss_monitor import (
    GovernorRefused,
    GovernorSettings,
    LossMonitor,
    LossMonitorState,
)

SETTINGS = GovernorSettings()


def noisy(count: int, level: float = 1.0, noise: float = 0.1, seed: int = 0) -> Iterator[float]:
    """Losses around a level."""
    chance = random.Random(seed)
    return (chance.gauss(level, noise) for _ in range(count))


def alarms(losses: Iterable[float], watch: LossMonitor | None = None) -> list[tuple[int, str]]:
    """Every alarm, with the number of the loss that made it."""
    watch = watch or LossMonitor(SETTINGS)
    return [
        (number, kind.value)
        for number, loss in enumerate(losses)
        if (kind := watch.see(loss)) is not None
    ]


def settled() -> LossMonitor:
    """A watch that knows its level: 1.0, with a spread of 0.1."""
    watch = LossMonitor(SETTINGS)
    assert alarms(noisy(200), watch) == []
    return watch


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_alarm_at_once_and_at_any_time(loss: float) -> None:
    assert alarms([loss]) == [(0, "nan")]
    assert alarms([loss], settled()) == [(0, "nan")]


def test_a_loss_that_leaps_up_and_stays_is_a_divergence_in_the_fifth_step() -> None:
    assert alarms(repeat(3.0, 5), settled()) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_while_a_run_settles_no_finite_loss_is_wild() -> None:
    watch = settled()
    watch.settle(20)
    grace = SETTINGS.settle_steps + 20
    assert alarms(repeat(3.0, grace), watch) == []
    assert alarms(repeat(3.0, 5), watch) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_what_has_long_settled_is_not_waited_for() -> None:
    watch = settled()
    watch.settle(-SETTINGS.settle_steps)
    assert alarms(repeat(3.0, 5), watch) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_a_loss_that_is_not_finite_is_an_alarm_while_a_run_settles() -> None:
    watch = settled()
    watch.settle(20)
    assert alarms([math.nan], watch) == [(0, "nan")]


def test_one_hard_batch_now_and_then_is_no_alarm() -> None:
    losses = chain.from_iterable((*noisy(7, seed=seed), 50.0, 50.0) for seed in range(100))
    assert alarms(losses, settled()) == []


def test_a_loss_that_falls_is_no_alarm_however_fast() -> None:
    assert alarms((0.9**step for step in range(500)), settled()) == []


def test_a_flat_loss_with_a_little_noise_is_no_alarm() -> None:
    losses = [*repeat(0.5, 200), *(0.5 + 1e-6 * (step % 7) for step in range(200))]
    assert alarms(losses) == []


def test_a_loss_near_zero_is_measured_by_where_the_run_began() -> None:
    low = settled()
    assert alarms(repeat(1e-6, 200), low) == []
    assert alarms(repeat(0.1, 50), low) == []
    high = settled()
    alarms(repeat(1e-6, 200), high)
    assert alarms(repeat(0.5, 5), high) == [(4, "divergence")]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1 << 30), st.floats(1e-6, 1e6), st.floats(0, 0.5), st.sampled_from((0.0, 1.0))
)
def test_noise_alone_is_no_alarm_in_ten_thousand_steps(
    seed: int, level: float, noise: float, falls: float
) -> None:
    losses = [
        level * abs(loss) * (1 + 5 * falls * math.exp(-step / 500))
        for step, loss in enumerate(noisy(10_000, 1.0, noise, seed))
    ]
    watch = LossMonitor(SETTINGS)
    assert alarms(losses[:300], watch) == []
    watch.planted()
    assert alarms(losses[300:], watch) == []


def test_what_rises_slowly_past_the_level_before_a_planting_is_a_collapse() -> None:
    watch = settled()
    watch.planted()
    rising = [loss + 0.01 * step for step, loss in enumerate(noisy(400, seed=1))]
    found = alarms(rising, watch)
    assert found[0][1] == "collapse"
    assert 100 <= found[0][0] <= 200


def test_the_same_rise_with_nothing_on_trial_is_no_collapse() -> None:
    watch = settled()
    watch.planted()
    watch.clear_baseline()
    assert alarms((loss + 0.01 * step for step, loss in enumerate(noisy(400))), watch) == []


def test_a_loss_that_comes_back_within_the_steps_given_is_no_collapse() -> None:
    watch = settled()
    watch.planted()
    for round_ in range(5):
        up = [loss + 0.6 for loss in noisy(SETTINGS.collapse_steps - 24, seed=round_)]
        assert alarms(up, watch) == []
        assert alarms(noisy(64, seed=round_), watch) == []


def test_a_second_planting_at_a_worse_level_does_not_excuse_the_first() -> None:
    watch = settled()
    watch.planted()
    alarms((loss + 0.45 for loss in noisy(60, seed=2)), watch)
    watch.planted()
    found = alarms((loss + 0.45 for loss in noisy(200, seed=3)), watch)
    assert [kind for _, kind in found][:1] == ["collapse"]


def test_calm_counts_sound_losses_since_the_last_wild_one() -> None:
    watch = settled()
    alarms([9.0], watch)
    assert watch.healthy_steps == 0
    alarms(noisy(12), watch)
    assert watch.healthy_steps == 12


def test_a_watch_that_goes_on_from_what_another_remembers_says_the_same() -> None:
    losses = [*noisy(300), *(loss + 0.008 * step for step, loss in enumerate(noisy(500)))]
    one = LossMonitor(SETTINGS)
    one.planted()
    alarms(losses[:350], one)
    other = LossMonitor(SETTINGS)
    other.resume(LossMonitorState.model_validate_json(one.loss_monitor_state.model_dump_json()))
    assert alarms(losses[350:], other) == alarms(losses[350:], one)


def test_after_an_alarm_that_was_none_the_new_level_is_learnt() -> None:
    watch = settled()
    assert alarms(repeat(5.0, 5), watch)
    watch.forget()
    assert alarms(noisy(300, 5.0), watch) == []
    assert watch.see(math.nan) is IncidentKind.NAN


@pytest.mark.parametrize(
    ("name", "value"), [("window", 8), ("z", 0.0), ("snapshots", 1), ("consecutive_outliers", 0)]
)
def test_thresholds_that_tell_nothing_apart_are_refused(name: str, value: float) -> None:
    with pytest.raises(GovernorRefused, match=f"{name} is {value}"):
        GovernorSettings(**{name: value})  # type: ignore[arg-type]
