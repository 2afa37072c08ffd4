"""The options of `esper train` that say how a run chooses."""

from pathlib import Path
from typing import Any

import pytest
import typer

from esper.bandit import DEFAULT_POLICY, DEFAULT_SELECTION, TOURNAMENT
from esper.topics.models import PolicySpec, SelectionLimits
from esper.workers.cli.train.policy_options import PolicyOptions
from esper.workers.cli.train.trainer import REPORT_EVERY, SLOTS
from tests.workers.cli.test_errors import esper

SITES = ("conv1", "conv2", "fc1")


def test_without_options_a_run_chooses_by_the_defaults() -> None:
    assert PolicyOptions().chosen(SITES) == (DEFAULT_POLICY, DEFAULT_SELECTION)


def test_each_option_is_one_thing_that_the_run_is_told() -> None:
    policy, selection = PolicyOptions(
        policy="ucb1",
        policy_param=["exploration=0.5"],
        attention="ucb1",
        max_params=500,
        max_memory_ratio=3.0,
        max_latency_ratio=2.5,
        forbid=["identity", "film"],
        pin=["conv1=gated-conv", "conv1=squeeze-excite", "fc1=film"],
        dormant_reports=0,
        max_on_trial=1,
    ).chosen(SITES)
    assert policy == PolicySpec(name="ucb1", params={"exploration": 0.5})
    assert selection.attention == PolicySpec(name="ucb1")
    assert selection.limits == SelectionLimits(
        max_params=500,
        max_memory_ratio=3.0,
        max_latency_ratio=2.5,
        forbidden=("identity", "film"),
        pinned={"conv1": ("gated-conv", "squeeze-excite"), "fc1": ("film",)},
        dormant_reports=0,
        max_on_trial=1,
    )


def test_a_tournament_has_its_own_selection_seeds_and_reports() -> None:
    usual = PolicyOptions()
    assert (usual.report_every, usual.slots) == (REPORT_EVERY, SLOTS) == (20, 2)
    choosing = PolicyOptions(tournament=True)
    assert choosing.chosen(SITES) == (DEFAULT_POLICY, TOURNAMENT)
    assert (choosing.report_every, choosing.slots) == (10, 4)


def test_a_tournament_may_be_told_more() -> None:
    _, selection = PolicyOptions(tournament=True, max_on_trial=6).chosen(SITES)
    assert selection.limits == TOURNAMENT.limits.model_copy(update={"max_on_trial": 6})
    assert selection.keep_share == TOURNAMENT.keep_share


def test_no_attention_leaves_all_to_the_policy() -> None:
    _, selection = PolicyOptions(attention="none").chosen(SITES)
    assert selection.attention is None
    assert selection.limits == DEFAULT_SELECTION.limits


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"policy": "oracle"}, "no policy 'oracle'; there are .*ucb1"),
        ({"attention": "oracle"}, "no policy 'oracle'; there are .*ucb1"),
        ({"policy": "ucb1", "policy_param": ["greed=1"]}, "no parameter 'greed'; it has explor"),
        ({"policy": "ucb1", "policy_param": ["exploration=-1"]}, "must be from 0 to"),
        ({"policy_param": ["exploration"]}, "'exploration' is not NAME=NUMBER"),
        ({"policy_param": ["exploration=much"]}, "'exploration=much' is not NAME=NUMBER"),
        ({"pin": ["conv9=film"]}, "no site 'conv9'; there are: conv1, conv2, fc1"),
        ({"pin": ["conv1"]}, "'conv1' is not SITE=BLUEPRINT"),
        ({"forbid": ["Film!"]}, "forbidden 0: .* not 'Film!'"),
        ({"max_latency_ratio": 0.0}, "max_latency_ratio: .* greater than 0, not 0.0"),
    ],
    ids=str,
)
def test_what_there_is_not_is_answered_with_what_there_is(
    options: dict[str, Any], why: str
) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        PolicyOptions(**options).chosen(SITES)


def test_the_command_takes_the_options_and_wrong_names_exit_with_2(tmp_path: Path) -> None:
    ended = esper("train", "digits", "--policy", "oracle", "--pin", "fc1=film", home=tmp_path)
    assert ended.returncode == 2
    assert "no policy 'oracle'" in ended.stderr
    assert "Traceback" not in ended.stderr
