"""Options of `esper train` for the policies of a run and their limits."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from esper.bandit import AUDITIONED, DEFAULT_POLICY, TOURNAMENT, TRIALS
from esper.topics.models import PolicySpec, Selection, SelectionLimits
from esper.training import GrowConfig
from esper.workers.cli import app
from esper.workers.cli.train.policy_options import PolicyOptions
from esper.workers.cli.train.trainer import REPORT_EVERY, SLOTS
from tests.workers.cli.test_errors import esper

SITES = ("conv1", "conv2", "fc1")


def test_without_options_a_run_has_the_defaults() -> None:
    assert PolicyOptions().policy_and_selection(SITES) == (DEFAULT_POLICY, TRIALS)


@pytest.mark.parametrize(
    ("given", "of_task", "expected"),
    [
        (None, True, AUDITIONED),
        (None, False, TRIALS),
        (True, False, AUDITIONED),
        (False, True, TRIALS),
    ],
)
def test_auditions_are_the_tasks_default_and_the_users_choice(
    given: bool | None, of_task: bool, expected: Selection
) -> None:
    options = PolicyOptions(auditions=given)
    assert options.policy_and_selection(SITES, auditions=of_task) == (DEFAULT_POLICY, expected)
    assert options.given == (["--auditions"] if given else [])


def test_each_option_sets_one_value_of_the_run() -> None:
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
    ).policy_and_selection(SITES)
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


def test_a_tournament_has_its_own_selection_slots_and_reporting_interval() -> None:
    usual = PolicyOptions()
    assert (usual.report_every, usual.slots) == (REPORT_EVERY, SLOTS) == (20, 2)
    choosing = PolicyOptions(tournament=True)
    assert choosing.policy_and_selection(SITES) == (DEFAULT_POLICY, TOURNAMENT)
    assert (choosing.report_every, choosing.slots) == (10, 4)


def test_a_tournament_can_be_combined_with_limits() -> None:
    _, selection = PolicyOptions(tournament=True, max_on_trial=6).policy_and_selection(SITES)
    assert selection.limits == TOURNAMENT.limits.model_copy(update={"max_on_trial": 6})
    assert selection.keep_share == TOURNAMENT.keep_share


def test_attention_none_leaves_the_choice_of_site_to_the_policy() -> None:
    _, selection = PolicyOptions(attention="none").policy_and_selection(SITES)
    assert selection.attention is None
    assert selection.limits == TRIALS.limits


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"policy": "oracle"}, "no policy 'oracle'; there are .*ucb1"),
        ({"attention": "oracle"}, "no policy 'oracle'; there are .*ucb1"),
        ({"policy": "ucb1", "policy_param": ["greed=1"]}, "no parameter 'greed'; it has explor"),
        ({"policy": "ucb1", "policy_param": ["exploration=-1"]}, "must be from 0 to"),
        ({"policy_param": ["exploration"]}, "'exploration' is invalid; write NAME=NUMBER"),
        (
            {"policy_param": ["exploration=much"]},
            "'exploration=much' is invalid; write NAME=NUMBER",
        ),
        ({"pin": ["conv9=film"]}, "no site 'conv9'; use one of: conv1, conv2, fc1"),
        ({"pin": ["conv1"]}, "'conv1' is invalid; write SITE=BLUEPRINT"),
        ({"forbid": ["Film!"]}, "forbidden 0: .* not 'Film!'"),
        ({"max_latency_ratio": 0.0}, "max_latency_ratio: .* greater than 0, not 0.0"),
    ],
    ids=str,
)
def test_an_unknown_name_or_value_is_refused_with_the_valid_ones(
    options: dict[str, Any], why: str
) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        PolicyOptions(**options).policy_and_selection(SITES)


def test_an_unknown_policy_on_the_command_line_exits_with_2(tmp_path: Path) -> None:
    ended = esper("train", "digits", "--policy", "oracle", "--pin", "fc1=film", home=tmp_path)
    assert ended.returncode == 2
    assert "no policy 'oracle'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("option", "field"), [("policy", "policy"), ("memory", "memory"), ("lockstep", "lockstep")]
)
def test_the_help_of_an_option_is_the_description_of_its_config_field(
    option: str, field: str
) -> None:
    (parameter,) = (p for p in get_command(app).commands["train"].params if p.name == option)
    assert GrowConfig.model_fields[field].description in parameter.help
