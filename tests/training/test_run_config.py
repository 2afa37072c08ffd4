"""What a run says of itself when it opens."""

import pytest
import torch
from torch import nn

from esper.bandit import DEFAULT_POLICY, DEFAULT_SELECTION
from esper.seed import find_sites
from esper.topics.models import (
    PolicySpec,
    RunConfig,
    Selection,
    SelectionLimits,
    SiteFacts,
    SiteKind,
)
from esper.training import PolicyRefused
from esper.training.run_config import is_contextual, run_config_of, site_facts
from tests.seed.hosts import host, sites_of


def a_run_config(policy: PolicySpec | None = None, selection: Selection | None = None) -> RunConfig:
    model = host()
    return run_config_of(
        model,
        sites_of(model),
        seed=3,
        slots=2,
        policy=policy,
        selection=selection,
        report_every=20,
        lockstep=False,
    )


def test_each_site_is_told_with_what_a_policy_may_know_of_it() -> None:
    assert a_run_config().sites == {
        "conv": SiteFacts(
            kind=SiteKind.FEATURE_MAP, signature="feature_map:2x6x6>8x6x6", depth=0.0, params=152
        ),
        "fc1": SiteFacts(kind=SiteKind.VECTOR, signature="vector:8>8", depth=1.0, params=72),
    }


def test_depth_is_the_place_in_the_order_of_modules_not_of_names_given() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    found = find_sites(model, ["3", "0", "2"], torch.zeros(1, 3), 1)
    facts = site_facts(model, found)
    assert {name: each.depth for name, each in facts.items()} == {"0": 0.0, "2": 0.5, "3": 1.0}


def test_a_site_alone_is_in_the_middle() -> None:
    model = host()
    assert site_facts(model, sites_of(model, "fc1"))["fc1"].depth == 0.5


def test_what_is_given_is_told_and_what_is_not_is_the_default() -> None:
    policy = PolicySpec(params={"exploration": 0.5})
    selection = Selection(limits=SelectionLimits(max_on_trial=1))
    given, default = a_run_config(policy, selection), a_run_config()
    assert (given.policy, given.selection) == (policy, selection)
    assert (default.policy, default.selection) == (DEFAULT_POLICY, DEFAULT_SELECTION)
    assert DEFAULT_SELECTION.attention is not None


def test_policies_are_told_with_all_their_parameters_lest_a_default_changes() -> None:
    told = a_run_config(PolicySpec(name="sliding-ucb", params={"window": 50}), Selection())
    assert told.policy.params == {"exploration": 0.5, "window": 50}
    attending = a_run_config(None, Selection(attention=PolicySpec(name="thompson-gaussian")))
    assert attending.selection and attending.selection.attention
    assert attending.selection.attention.params == {"sigma": 0.5, "prior_sigma": 0.5}


@pytest.mark.parametrize(
    ("policy", "selection", "why"),
    [
        (PolicySpec(name="oracle"), None, "no policy 'oracle'; there are"),
        (None, Selection(attention=PolicySpec(name="oracle")), "no policy 'oracle'; there are"),
        (None, Selection(attention=PolicySpec(name="linear-thompson")), "linear-thompson"),
        (PolicySpec(params={"greed": 1.0}), None, "has no parameter 'greed'; it has exploration"),
    ],
    ids=["policy", "attention", "attention by features", "parameter"],
)
def test_a_policy_that_there_is_not_is_refused_before_the_run_is_announced(
    policy: PolicySpec | None, selection: Selection | None, why: str
) -> None:
    with pytest.raises(PolicyRefused, match=why):
        a_run_config(policy, selection)


def test_only_a_policy_that_judges_by_features_needs_gradients() -> None:
    assert not is_contextual(a_run_config(PolicySpec(name="ucb1")))
    assert is_contextual(a_run_config(PolicySpec(name="linear-thompson")))
