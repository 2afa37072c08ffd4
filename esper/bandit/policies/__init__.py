"""Policies: score all arms from their statistics.

A policy is a frozen dataclass of its parameters, in a module of this package, and a row of
`_CLASSES`. The command line and `docs/choosing.md` (see `esper.bandit.policy_table`) render this
table, so a new policy needs no edit elsewhere. The defaults and the experiments name the policies
that they use.
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

POLICIES: Mapping[str, Callable[..., Policy]] = {policy.name: policy for policy in _CLASSES}

__all__ = ["POLICIES", "Policy", "attention_for", "policy_for", "with_all_params"]


def policy_for(spec: PolicySpec) -> Policy:
    """Return the policy of a spec.

    Raises:
        ValueError: the name or a parameter is unknown, or a value is out of range.
    """
    known = {policy.name: [field.name for field in fields(policy)] for policy in _CLASSES}
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
    """Return the policy of a spec, for choosing among slots.

    Raises:
        ValueError: as `policy_for`, or the policy is contextual, and slots have no features.
    """
    policy = policy_for(spec)
    if policy.contextual:
        raise ValueError(f"policy {spec.name} judges blueprints and cannot choose seeds")
    return policy


def with_all_params(spec: PolicySpec) -> PolicySpec:
    """Return the spec with all parameters written out, so that later defaults do not change it.

    Raises:
        ValueError: as `policy_for`.
    """
    policy = policy_for(spec)
    names = [field.name for field in fields(POLICIES[spec.name])]  # type: ignore[arg-type]
    return spec.model_copy(update={"params": {name: getattr(policy, name) for name in names}})
