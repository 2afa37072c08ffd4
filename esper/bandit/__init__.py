"""Choose among arms: statistics per arm, policies that score arms, reproducible randomness.

An arm is a (site, blueprint). Trial results flow in, scores and choices flow out. Pure functions
and values: nothing here imports Kafka, torch or a clock.
"""

from esper.bandit.arm_arrays import ArmArrays, PolicyContext
from esper.bandit.arm_features import ArmFeatures, Codes
from esper.bandit.arm_stats import ArmStats
from esper.bandit.constraints import (
    BUDGET_SHARE,
    NO_COSTS,
    Constraint,
    Costs,
    Situation,
    constraint_codes,
    explain_constraint,
    permanent_codes,
)
from esper.bandit.counter_rng import CounterRNG, uniform
from esper.bandit.defaults import (
    AUDITIONED,
    DEFAULT_POLICY,
    TOURNAMENT,
    TOURNAMENT_REPORT_EVERY,
    TOURNAMENT_SLOTS,
    TRIALS,
    default_selection,
)
from esper.bandit.discounting import NO_DISCOUNT, Discounting
from esper.bandit.history import ArmHistory, TrialResult
from esper.bandit.linear import LinearModel
from esper.bandit.memory import (
    ArmName,
    ArmRecord,
    FamilyMemory,
    MemoryUpdate,
    RetentionPolicy,
    snapshot,
    with_run,
)
from esper.bandit.policies import POLICIES, Policy, attention_for, policy_for, with_all_params
from esper.bandit.portable import exp
from esper.bandit.priors import NO_PRIOR, Prior, priors_for
from esper.bandit.ranks import CostRanks, cost_ranks
from esper.bandit.reward import reward_of, share_of
from esper.bandit.selector import (
    PURPOSE,
    TIE_BREAK,
    ArmChoice,
    SeedSelector,
    SelectorInput,
    SlotId,
)
from esper.bandit.site_features import features
from esper.bandit.tracker import HistoryKey, HistoryRow, PerformanceTracker

__all__ = [
    "AUDITIONED",
    "BUDGET_SHARE",
    "DEFAULT_POLICY",
    "NO_COSTS",
    "NO_DISCOUNT",
    "NO_PRIOR",
    "POLICIES",
    "PURPOSE",
    "TIE_BREAK",
    "TOURNAMENT",
    "TOURNAMENT_REPORT_EVERY",
    "TOURNAMENT_SLOTS",
    "TRIALS",
    "ArmArrays",
    "ArmChoice",
    "ArmFeatures",
    "ArmHistory",
    "ArmName",
    "ArmRecord",
    "ArmStats",
    "Codes",
    "Constraint",
    "CostRanks",
    "Costs",
    "CounterRNG",
    "Discounting",
    "FamilyMemory",
    "HistoryKey",
    "HistoryRow",
    "LinearModel",
    "MemoryUpdate",
    "PerformanceTracker",
    "Policy",
    "PolicyContext",
    "Prior",
    "RetentionPolicy",
    "SeedSelector",
    "SelectorInput",
    "Situation",
    "SlotId",
    "TrialResult",
    "attention_for",
    "constraint_codes",
    "cost_ranks",
    "default_selection",
    "exp",
    "explain_constraint",
    "features",
    "permanent_codes",
    "policy_for",
    "priors_for",
    "reward_of",
    "share_of",
    "snapshot",
    "uniform",
    "with_all_params",
    "with_run",
]
