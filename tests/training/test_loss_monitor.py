"""Which losses raise an alarm."""

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
    """Return losses around a level, with normal noise."""
    chance = random.Random(seed)
    return (chance.gauss(level, noise) for _ in range(count))


def alarms(losses: Iterable[float], monitor: LossMonitor | None = None) -> list[tuple[int, str]]:
    """Return every alarm with the index of the loss that raised it."""
    monitor = monitor or LossMonitor(SETTINGS)
    return [
        (index, kind.value)
        for index, loss in enumerate(losses)
        if (kind := monitor.update(loss)) is not None
    ]


def settled() -> LossMonitor:
    """Return a monitor with a level of 1.0 and a spread of 0.1."""
    monitor = LossMonitor(SETTINGS)
    assert alarms(noisy(200), monitor) == []
    return monitor


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_raises_an_alarm_at_its_step(loss: float) -> None:
    assert alarms([loss]) == [(0, "nan")]
    assert alarms([loss], settled()) == [(0, "nan")]


def test_five_outliers_in_a_row_are_a_divergence() -> None:
    assert alarms(repeat(3.0, 5), settled()) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_in_the_settle_window_no_finite_loss_is_an_outlier() -> None:
    monitor = settled()
    monitor.settle(20)
    grace = SETTINGS.settle_steps + 20
    assert alarms(repeat(3.0, grace), monitor) == []
    assert alarms(repeat(3.0, 5), monitor) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_a_settle_window_that_ended_earlier_has_no_effect() -> None:
    monitor = settled()
    monitor.settle(-SETTINGS.settle_steps)
    assert alarms(repeat(3.0, 5), monitor) == [(SETTINGS.consecutive_outliers - 1, "divergence")]


def test_in_the_settle_window_a_loss_that_is_not_finite_raises_an_alarm() -> None:
    monitor = settled()
    monitor.settle(20)
    assert alarms([math.nan], monitor) == [(0, "nan")]


def test_single_outliers_raise_no_alarm() -> None:
    losses = chain.from_iterable((*noisy(7, seed=seed), 50.0, 50.0) for seed in range(100))
    assert alarms(losses, settled()) == []


def test_a_falling_loss_raises_no_alarm() -> None:
    assert alarms((0.9**step for step in range(500)), settled()) == []


def test_a_flat_loss_with_little_noise_raises_no_alarm() -> None:
    losses = [*repeat(0.5, 200), *(0.5 + 1e-6 * (step % 7) for step in range(200))]
    assert alarms(losses) == []


def test_the_spread_of_a_loss_near_zero_is_a_share_of_the_first_median() -> None:
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
def test_noise_raises_no_alarm_in_ten_thousand_steps(
    seed: int, level: float, noise: float, falls: float
) -> None:
    losses = [
        level * abs(loss) * (1 + 5 * falls * math.exp(-step / 500))
        for step, loss in enumerate(noisy(10_000, 1.0, noise, seed))
    ]
    monitor = LossMonitor(SETTINGS)
    assert alarms(losses[:300], monitor) == []
    monitor.set_baseline()
    assert alarms(losses[300:], monitor) == []


def test_a_slow_rise_above_the_baseline_is_a_collapse() -> None:
    monitor = settled()
    monitor.set_baseline()
    rising = [loss + 0.01 * step for step, loss in enumerate(noisy(400, seed=1))]
    found = alarms(rising, monitor)
    assert found[0][1] == "collapse"
    assert 100 <= found[0][0] <= 200


def test_a_slow_rise_without_a_baseline_is_no_collapse() -> None:
    monitor = settled()
    monitor.set_baseline()
    monitor.clear_baseline()
    assert alarms((loss + 0.01 * step for step, loss in enumerate(noisy(400))), monitor) == []


def test_a_loss_that_recovers_within_collapse_steps_is_no_collapse() -> None:
    monitor = settled()
    monitor.set_baseline()
    for round_ in range(5):
        up = [loss + 0.6 for loss in noisy(SETTINGS.collapse_steps - 24, seed=round_)]
        assert alarms(up, monitor) == []
        assert alarms(noisy(64, seed=round_), monitor) == []


def test_a_second_planting_at_a_higher_level_keeps_the_baseline() -> None:
    monitor = settled()
    monitor.set_baseline()
    alarms((loss + 0.45 for loss in noisy(60, seed=2)), monitor)
    monitor.set_baseline()
    found = alarms((loss + 0.45 for loss in noisy(200, seed=3)), monitor)
    assert [kind for _, kind in found][:1] == ["collapse"]


def test_healthy_steps_counts_losses_since_the_last_outlier() -> None:
    monitor = settled()
    alarms([9.0], monitor)
    assert monitor.healthy_steps == 0
    alarms(noisy(12), monitor)
    assert monitor.healthy_steps == 12


def test_a_monitor_with_the_state_of_another_raises_the_same_alarms() -> None:
    losses = [*noisy(300), *(loss + 0.008 * step for step, loss in enumerate(noisy(500)))]
    one = LossMonitor(SETTINGS)
    one.set_baseline()
    alarms(losses[:350], one)
    other = LossMonitor(SETTINGS)
    other.load_state(LossMonitorState.model_validate_json(one.state.model_dump_json()))
    assert alarms(losses[350:], other) == alarms(losses[350:], one)


def test_after_a_reset_the_new_level_is_learned() -> None:
    monitor = settled()
    assert alarms(repeat(5.0, 5), monitor)
    monitor.reset()
    assert alarms(noisy(300, 5.0), monitor) == []
    assert monitor.update(math.nan) is IncidentKind.NAN


@pytest.mark.parametrize(
    ("name", "value"), [("window", 8), ("z", 0.0), ("snapshots", 1), ("consecutive_outliers", 0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(GovernorRefused, match=f"{name} is {value}"):
        GovernorSettings(**{name: value})  # type: ignore[arg-type]
