"""Policies: from the statistics of all arms to a score for each."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from esper.bandit.statistics import ArmStatistics
from topics.models import PolicySpec

LOG_DIGITS = 12
DEFAULT_EXPLORATION = 2.0
MAX_EXPLORATION = 1e6


class Policy(Protocol):
    """Scores arms; the higher the sooner. `version` changes when scores would.

    `score` returns one number per arm, None standing for an infinite score. It reads nothing but
    its arguments.
    """

    name: str
    version: int

    def check(self, params: Mapping[str, float]) -> None:
        """Raise ValueError where `score` could not be called with these parameters."""
        ...

    def score(
        self, arms: Sequence[ArmStatistics], params: Mapping[str, float]
    ) -> list[float | None]:
        """Return the scores, in the order of `arms`."""
        ...


class UCB1:
    """UCB1: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem"
    (Machine Learning 47, 2002), figure 1: mean + sqrt(exploration * ln(t) / pulls).

    Rewards must be in [0, 1]. Every arm is tried once before any is tried twice; `exploration` is
    2 as in the paper unless given.
    """

    name = "ucb1"
    version = 1

    def check(self, params: Mapping[str, float]) -> None:
        """Raise ValueError, naming the parameter, unless `score` works with these."""
        unknown = sorted(params.keys() - {"exploration"})
        if unknown:
            raise ValueError(f"policy ucb1 has no parameter {unknown[0]!r}; it has exploration")
        exploration = params.get("exploration", DEFAULT_EXPLORATION)
        if not 0.0 <= exploration <= MAX_EXPLORATION:
            raise ValueError(
                f"policy ucb1: exploration is {exploration!r} and must be from 0 to "
                f"{MAX_EXPLORATION:g}"
            )

    def score(
        self, arms: Sequence[ArmStatistics], params: Mapping[str, float]
    ) -> list[float | None]:
        """Return the upper confidence bound of each arm, None for one never tried."""
        total = sum(arm.pulls for arm in arms)
        exploration = params.get("exploration", DEFAULT_EXPLORATION)
        # The last bits of log differ between C libraries, and the audit compares bytes.
        log_total = round(math.log(max(total, 1)), LOG_DIGITS)
        return [
            arm.mean + math.sqrt(exploration * log_total / arm.pulls) if arm.pulls else None
            for arm in arms
        ]


POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (UCB1(),)}


def policy_for(spec: PolicySpec) -> Policy:
    """Return the policy that a run asks for.

    Raises:
        ValueError: there is none of that name, or it cannot work with the parameters given.
    """
    policy = POLICIES.get(spec.name)
    if policy is None:
        raise ValueError(f"no policy {spec.name!r}; there are {', '.join(sorted(POLICIES))}")
    policy.check(spec.params)
    return policy
