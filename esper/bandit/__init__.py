"""Choosing among arms: statistics per arm, policies that score them, reproducible randomness.

An arm is a (site, blueprint). Statistics flow in, scores flow out; nothing here knows of Kafka,
torch or time.
"""

from esper.bandit.arm_arrays import ArmArrays, Experience
from esper.bandit.arm_features import ArmFeatures
from esper.bandit.arm_stats import ArmStats
from esper.bandit.constraints import Constraint, Costs, Situation, bans, constrained, explain
from esper.bandit.counter_rng import CounterRNG, uniform
from esper.bandit.discounting import NOTHING, Discounting
from esper.bandit.history import History, TrialResult
from esper.bandit.linear import LinearModel
from esper.bandit.policies import POLICIES, Policy, attention_for, policy_for, written_out
from esper.bandit.priors import NO_PRIOR, Prior, priors_for
from esper.bandit.ranks import CostRanks, cost_ranks
from esper.bandit.reward import reward_of, share_of
from esper.bandit.selector import Choice, Options, Seat, SeedSelector
from esper.bandit.tracker import HistoryRow, PerformanceTracker, Tried

__all__ = [
    "NOTHING",
    "NO_PRIOR",
    "POLICIES",
    "ArmArrays",
    "ArmFeatures",
    "ArmStats",
    "Choice",
    "Constraint",
    "CostRanks",
    "Costs",
    "CounterRNG",
    "Discounting",
    "Experience",
    "History",
    "HistoryRow",
    "LinearModel",
    "Options",
    "PerformanceTracker",
    "Policy",
    "Prior",
    "Seat",
    "SeedSelector",
    "Situation",
    "TrialResult",
    "Tried",
    "attention_for",
    "bans",
    "constrained",
    "cost_ranks",
    "explain",
    "policy_for",
    "priors_for",
    "reward_of",
    "share_of",
    "uniform",
    "written_out",
]
