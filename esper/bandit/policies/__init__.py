"""Policies: from what all arms have shown to a score for each.

A policy is a frozen dataclass of its parameters in a file of its own kind, and a row in `POLICIES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields

from esper.bandit.policies.control import Random
from esper.bandit.policies.greedy import EpsilonGreedy
from esper.bandit.policies.kl_ucb import KLUCB
from esper.bandit.policies.linear import LinearThompson
from esper.bandit.policies.performance import Performance
from esper.bandit.policies.policy import Policy
from esper.bandit.policies.thompson import (
    DiscountedThompson,
    SlidingThompson,
    ThompsonBeta,
    ThompsonGaussian,
)
from esper.bandit.policies.ucb import UCB1, DiscountedUCB, SlidingUCB
from esper.topics.models import PolicySpec

_CLASSES = (
    UCB1,
    KLUCB,
    ThompsonBeta,
    ThompsonGaussian,
    EpsilonGreedy,
    Performance,
    SlidingUCB,
    DiscountedUCB,
    SlidingThompson,
    DiscountedThompson,
    LinearThompson,
    Random,
)

POLICIES: Mapping[str, Callable[..., Policy]] = {each.name: each for each in _CLASSES}

__all__ = ["POLICIES", "Policy", "attention_for", "policy_for", "written_out"]


def policy_for(spec: PolicySpec) -> Policy:
    """Return the policy that a run asks for.

    Raises:
        ValueError: there is none of that name, or it cannot work with the parameters given.
    """
    known = {each.name: [field.name for field in fields(each)] for each in _CLASSES}
    if spec.name not in known:
        raise ValueError(f"no policy {spec.name!r}; there are {', '.join(sorted(known))}")
    unknown = sorted(spec.params.keys() - set(known[spec.name]))
    if unknown:
        has = ", ".join(known[spec.name]) or "none"
        raise ValueError(f"policy {spec.name} has no parameter {unknown[0]!r}; it has {has}")
    try:
        return POLICIES[spec.name](**spec.params)
    except ValueError as error:
        raise ValueError(f"policy {spec.name}: {error}") from error


def attention_for(spec: PolicySpec) -> Policy:
    """Return the policy that chooses among seeds.

    Raises:
        ValueError: as `policy_for`, or it judges by features, which seeds have none of.
    """
    policy = policy_for(spec)
    if policy.contextual:
        raise ValueError(f"policy {spec.name} judges blueprints and cannot choose seeds")
    return policy


def with_all_params(spec: PolicySpec) -> PolicySpec:
    """Return the same with every parameter, so that it means the same when a default has changed.

    Raises:
        ValueError: as `policy_for`.
    """
    policy = policy_for(spec)
    names = [each.name for each in fields(POLICIES[spec.name])]  # type: ignore[arg-type]
    return spec.model_copy(update={"params": {name: getattr(policy, name) for name in names}})
