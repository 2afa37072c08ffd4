"""Choosing among arms: statistics per arm, policies that score them, reproducible randomness.

An arm is a (site, blueprint). Statistics flow in, scores flow out; nothing here knows of Kafka,
torch or time.
"""

from esper.bandit.columns import ArmColumns, Experience
from esper.bandit.draws import Draws, uniform
from esper.bandit.policies import POLICIES, Forgetting, Policy, policy_for
from esper.bandit.ranks import CostRanks, cost_ranks
from esper.bandit.reward import reward_of
from esper.bandit.statistics import ArmStatistics

__all__ = [
    "POLICIES",
    "ArmColumns",
    "ArmStatistics",
    "CostRanks",
    "Draws",
    "Experience",
    "Forgetting",
    "Policy",
    "cost_ranks",
    "policy_for",
    "reward_of",
    "uniform",
]
