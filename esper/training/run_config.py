"""The run configuration in the first report: sites and policies."""

from collections.abc import Mapping
from typing import Final

from torch import nn

from esper.bandit import attention_for, policy_for, with_all_params
from esper.errors import EsperError
from esper.orchestrator import LISTED_CANDIDATES, rules_for
from esper.seed import Site
from esper.topics.models import MemorySnapshot, PolicySpec, RunConfig, Selection, SiteFacts

CONTRACT_MAJOR: Final = 3
"""The contract that new runs are recorded in."""

LONE_DEPTH: Final = 0.5
"""Depth of a single site: neither first nor last."""


class PolicyRefused(EsperError, ValueError):
    """An unknown policy, parameter or strategy; the message names the known ones."""


def run_config_of(
    model: nn.Module,
    sites: Mapping[str, Site],
    *,
    seed: int,
    slots: int,
    policy: PolicySpec,
    selection: Selection,
    report_every: int,
    lockstep: bool,
    memory: MemorySnapshot | None = None,
) -> RunConfig:
    """Return the run configuration of a new run.

    Raises:
        PolicyRefused: no such policy or optional strategy exists, or a policy does not take its
            parameters.
    """
    run_config = RunConfig(
        seed=seed,
        slots=dict.fromkeys(sites, slots),
        policy=policy,
        host_params=sum(parameter.numel() for parameter in model.parameters()),
        report_interval_steps=report_every,
        lockstep=lockstep,
        sites=site_facts(model, sites),
        selection=selection,
        memory=memory,
        contract=CONTRACT_MAJOR,
        listed_candidates=LISTED_CANDIDATES,
    )
    return with_explicit_policies(run_config)


def site_facts(model: nn.Module, sites: Mapping[str, Site]) -> dict[str, SiteFacts]:
    """Return the facts that policies may use; depths follow the order of the modules."""
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    order = sorted(sites, key=modules.index)
    last = len(order) - 1
    return {
        name: SiteFacts(
            kind=sites[name].signature.kind,
            signature=sites[name].signature.text,
            depth=place / last if last else LONE_DEPTH,
            params=sum(parameter.numel() for parameter in sites[name].layer.parameters()),
        )
        for place, name in enumerate(order)
    }


def is_contextual(run_config: RunConfig) -> bool:
    """Return whether the run's policy uses arm features, gradients among them."""
    return policy_for(run_config.policy).contextual


def with_explicit_policies(run_config: RunConfig) -> RunConfig:
    """Return the run configuration with every parameter of its policies filled in.

    Raises:
        PolicyRefused: no such policy or optional strategy exists, or a policy does not take its
            parameters.
    """
    selection = run_config.selection
    try:
        if selection and selection.orchestration:
            rules_for(selection.orchestration)
        if selection and selection.attention:
            attention_for(selection.attention)
            attention = with_all_params(selection.attention)
            selection = selection.model_copy(update={"attention": attention})
        policy = with_all_params(run_config.policy)
    except ValueError as error:
        raise PolicyRefused(str(error)) from error
    return run_config.model_copy(update={"policy": policy, "selection": selection})
