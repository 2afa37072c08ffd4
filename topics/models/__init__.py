"""The events, one frozen model each; a record on a topic is the canonical JSON of one of them."""

from topics.models.blueprint import Blueprint, Node, Parameter
from topics.models.decision import (
    AdaptationDecision,
    Candidate,
    Cause,
    Cull,
    Fossilize,
    Operation,
    Plant,
    PolicyStamp,
    RandomStamp,
    Strategy,
)
from topics.models.event import Event, Identifier, Sha256
from topics.models.kernel import (
    Characterisation,
    CompileStatus,
    KernelCompiled,
    KernelCost,
    KernelReady,
    KernelRequested,
)
from topics.models.report import (
    KernelRefusal,
    LoadableKernel,
    Outcome,
    OutcomeStatus,
    RunOpening,
    SeedReport,
    SeedState,
    SeedStatus,
)
from topics.models.run import PolicySpec, RunStatus, SiteKind, SiteSignature, TrainingRun

__all__ = [
    "AdaptationDecision",
    "Blueprint",
    "Candidate",
    "Cause",
    "Characterisation",
    "CompileStatus",
    "Cull",
    "Event",
    "Fossilize",
    "Identifier",
    "KernelCompiled",
    "KernelCost",
    "KernelReady",
    "KernelRefusal",
    "KernelRequested",
    "LoadableKernel",
    "Node",
    "Operation",
    "Outcome",
    "OutcomeStatus",
    "Parameter",
    "Plant",
    "PolicySpec",
    "PolicyStamp",
    "RandomStamp",
    "RunOpening",
    "RunStatus",
    "SeedReport",
    "SeedState",
    "SeedStatus",
    "Sha256",
    "SiteKind",
    "SiteSignature",
    "Strategy",
    "TrainingRun",
]
