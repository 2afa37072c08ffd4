"""The run configuration in a run's first report."""

from typing import Any

import pytest
import torch
from torch import nn

from esper.bandit import AUDITIONED, DEFAULT_POLICY, TRIALS, default_selection
from esper.orchestrator import LISTED_CANDIDATES
from esper.seed import find_sites
from esper.topics.models import (
    PolicySpec,
    RunConfig,
    Selection,
    SelectionLimits,
    SiteFacts,
    SiteKind,
)
from esper.training import GrowConfig, PolicyRefused
from esper.training.run_config import is_contextual, run_config_of, site_facts
from tests.seed.hosts import host, sites_of


def run_config_for(*, auditions: bool = False, **config: Any) -> RunConfig:
    """Return the run configuration of a small host, for fields of GrowConfig."""
    given, model = GrowConfig(**config), host()
    return run_config_of(
        model,
        sites_of(model),
        seed=3,
        slots=2,
        policy=given.policy,
        selection=given.selection or default_selection(auditions=auditions),
        report_every=20,
        lockstep=False,
    )


def test_each_site_has_the_facts_that_a_policy_may_use() -> None:
    assert run_config_for().sites == {
        "conv": SiteFacts(
            kind=SiteKind.FEATURE_MAP, signature="feature_map:2x6x6>8x6x6", depth=0.0, params=152
        ),
        "fc1": SiteFacts(kind=SiteKind.VECTOR, signature="vector:8>8", depth=1.0, params=72),
    }


def test_decisions_of_a_new_run_list_few_candidates() -> None:
    assert run_config_for().listed_candidates == LISTED_CANDIDATES == 16


def test_depth_follows_the_order_of_modules_not_of_given_names() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    found = find_sites(model, ["3", "0", "2"], torch.zeros(1, 3), 1)
    facts = site_facts(model, found)
    assert {name: site.depth for name, site in facts.items()} == {"0": 0.0, "2": 0.5, "3": 1.0}


def test_a_single_site_has_depth_one_half() -> None:
    model = host()
    assert site_facts(model, sites_of(model, "fc1"))["fc1"].depth == 0.5


def test_given_policies_are_used_and_missing_ones_are_defaults() -> None:
    policy = PolicySpec(params={"exploration": 0.5})
    selection = Selection(limits=SelectionLimits(max_on_trial=1))
    given, default = run_config_for(policy=policy, selection=selection), run_config_for()
    assert (given.policy, given.selection) == (policy, selection)
    assert (default.policy, default.selection) == (DEFAULT_POLICY, TRIALS)
    assert run_config_for(auditions=True).selection == AUDITIONED
    assert TRIALS.attention is not None
    assert AUDITIONED.auditions is not None


def test_policies_are_written_with_all_parameters() -> None:
    written = run_config_for(
        policy=PolicySpec(name="sliding-ucb", params={"window": 50}), selection=Selection()
    )
    assert written.policy.params == {"exploration": 0.5, "window": 50}
    attending = run_config_for(selection=Selection(attention=PolicySpec(name="thompson-gaussian")))
    assert attending.selection and attending.selection.attention
    assert attending.selection.attention.params == {"sigma": 0.5, "prior_sigma": 0.5}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"policy": PolicySpec(name="oracle")}, "no policy 'oracle'; there are"),
        (
            {"selection": Selection(attention=PolicySpec(name="oracle"))},
            "no policy 'oracle'; there are",
        ),
        (
            {"selection": Selection(attention=PolicySpec(name="linear-thompson"))},
            "linear-thompson",
        ),
        (
            {"policy": PolicySpec(params={"greed": 1.0})},
            "has no parameter 'greed'; it has exploration",
        ),
    ],
    ids=["policy", "attention", "attention by features", "parameter"],
)
def test_an_unknown_policy_or_parameter_is_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(PolicyRefused, match=why):
        run_config_for(**config)


def test_only_a_contextual_policy_needs_gradients() -> None:
    assert not is_contextual(run_config_for(policy=PolicySpec(name="ucb1")))
    assert is_contextual(run_config_for(policy=PolicySpec(name="linear-thompson")))
