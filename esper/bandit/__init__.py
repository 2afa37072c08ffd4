"""Choosing among arms: statistics per arm, policies that score them, reproducible randomness.

An arm is a (site, blueprint). Statistics flow in, scores flow out; nothing here knows of Kafka,
torch or time.
"""

from esper.bandit.policy import POLICIES, Policy, policy_for
from esper.bandit.random import uniform
from esper.bandit.ranks import CostRanks, cost_ranks
from esper.bandit.reward import reward_of
from esper.bandit.statistics import ArmStatistics

__all__ = [
    "POLICIES",
    "ArmStatistics",
    "CostRanks",
    "Policy",
    "cost_ranks",
    "policy_for",
    "reward_of",
    "uniform",
]
