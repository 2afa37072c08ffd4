"""The tracker: one history each for a blueprint in a seed, a blueprint at a site, and a seed."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.bandit import (
    ArmHistory,
    Discounting,
    HistoryKey,
    HistoryRow,
    PerformanceTracker,
    TrialResult,
    tracker,
)

trials = st.lists(
    st.tuples(
        st.sampled_from(["conv", "fc"]),
        st.integers(0, 1),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0, 1),
    ),
    max_size=30,
)

Trials = list[tuple[str, int, str, float]]


def told(done: Trials, discounting: Discounting | None = None) -> PerformanceTracker:
    """The tracker after these trials, each ended by the report of its number."""
    tracked = PerformanceTracker(discounting=discounting or Discounting())
    for seq, (site, slot, blueprint, reward) in enumerate(done):
        result = TrialResult(reward=reward, contribution=reward - 0.5, params=7, seq=seq)
        tracked = tracked.after(site, slot, blueprint, result)
    return tracked


@given(trials)
def test_each_history_counts_the_trials_that_it_is_of(done: Trials) -> None:
    tracked = told(done)
    assert tracked.trials == len(done)
    for site in ("conv", "fc"):
        for slot in (0, 1):
            for blueprint in ("a", "b", "c"):
                for tried in (
                    HistoryKey(site, slot, blueprint),
                    HistoryKey(site, None, blueprint),
                    HistoryKey(site, slot),
                ):
                    of = [
                        reward
                        for at, slot_id, name, reward in done
                        if at == site
                        and tried.slot in (None, slot_id)
                        and tried.blueprint_id in (None, name)
                    ]
                    history = tracked.of(tried) or ArmHistory()
                    assert history.pulls == len(of)
                    assert history.mean == pytest.approx(sum(of) / len(of) if of else 0.0)


def test_it_keeps_contribution_cost_and_when_of_the_last_trial() -> None:
    history = told([("fc", 0, "a", 0.7), ("fc", 0, "b", 0.1)]).of(HistoryKey("fc", 0))
    assert history is not None
    assert (history.contribution, history.params, history.last_seq) == (-0.4, 7, 1)


@given(trials, st.sampled_from([Discounting(), Discounting(window=3), Discounting(discount=0.9)]))
def test_it_returns_whole_from_what_is_stored(done: Trials, discounting: Discounting) -> None:
    tracked = told(done, discounting)
    stored = orjson.loads(tracked.json)
    rows = [HistoryRow.model_validate_json(orjson.dumps(row)) for row in stored["rows"]]
    back = PerformanceTracker(discounting=discounting).with_rows(stored["trials"], rows)
    assert back == tracked
    assert back.json == tracked.json


@given(trials)
def test_another_network_under_a_known_name_starts_without_a_history(done: Trials) -> None:
    tracked = told(done)
    changed = tracked.without("fc", "a")
    for tried in (HistoryKey("fc", None, "a"), HistoryKey("fc", 0, "a"), HistoryKey("fc", 1, "a")):
        assert changed.of(tried) is None
    for kept in (HistoryKey("fc", None, "b"), HistoryKey("conv", None, "a"), HistoryKey("fc", 0)):
        assert changed.of(kept) == tracked.of(kept)


def test_of_too_many_details_those_tried_least_lately_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "MAX_DETAILED", 2)
    tracked = told([("s", 0, "a", 0.1), ("s", 0, "b", 0.1), ("s", 0, "a", 0.1), ("s", 0, "c", 0.1)])
    assert set(tracked.detailed) == {HistoryKey("s", 0, "a"), HistoryKey("s", 0, "c")}
    assert HistoryKey("s", None, "b") in tracked.marginal, "what policies decide on stays"
