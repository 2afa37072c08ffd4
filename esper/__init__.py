"""Esper: neural networks that grow while they train.

`import esper` gives everything that a training script uses: `grow`, `resume`, `replay`, their
configuration, and the errors that they raise. Names resolve on first use, so a process that only
decides or audits never loads torch.
"""

from typing import TYPE_CHECKING, Final

from esper.lazy import lazy_attributes
from esper.version import VERSION

if TYPE_CHECKING:
    from esper.bandit import (
        AUDITIONED,
        DEFAULT_POLICY,
        TOURNAMENT,
        TOURNAMENT_REPORT_EVERY,
        TOURNAMENT_SLOTS,
        TRIALS,
    )
    from esper.errors import EsperError
    from esper.link import RecordUnfit
    from esper.seed import SiteRefused
    from esper.settings import Settings
    from esper.topics.bus import BrokerUnreachable, TopicMismatch
    from esper.topics.models import (
        MemorySnapshot,
        Orchestration,
        PolicySpec,
        Priors,
        Selection,
        SelectionLimits,
    )
    from esper.training import (
        CheckpointRefused,
        ExportError,
        GovernorRefused,
        GovernorSettings,
        GrowConfig,
        Growth,
        GrowthClosed,
        GrowthState,
        GrowthStatus,
        LeaderFailed,
        LinkFailed,
        LockstepBroken,
        LockstepRefused,
        LockstepTimeouts,
        LossRefused,
        NotConfigured,
        OptimizerRefused,
        ParameterUntrained,
        PolicyRefused,
        ProbeRefused,
        RanksDiffer,
        ReplayDiffers,
        ReplayRefused,
        RunNameRefused,
        RunRecording,
        load_exported,
        read_recording,
    )
    from esper.training.grow import grow, replay, resume

_NAMES: Final = {
    "esper.bandit": (
        "AUDITIONED",
        "DEFAULT_POLICY",
        "TRIALS",
        "TOURNAMENT",
        "TOURNAMENT_REPORT_EVERY",
        "TOURNAMENT_SLOTS",
    ),
    "esper.errors": ("EsperError",),
    "esper.link": ("RecordUnfit",),
    "esper.seed": ("SiteRefused",),
    "esper.settings": ("Settings",),
    "esper.topics.bus": ("BrokerUnreachable", "TopicMismatch"),
    "esper.topics.models": (
        "MemorySnapshot",
        "Orchestration",
        "PolicySpec",
        "Priors",
        "Selection",
        "SelectionLimits",
    ),
    "esper.training": (
        "CheckpointRefused",
        "ExportError",
        "GovernorRefused",
        "GovernorSettings",
        "GrowConfig",
        "Growth",
        "GrowthClosed",
        "GrowthState",
        "GrowthStatus",
        "LeaderFailed",
        "LinkFailed",
        "LockstepBroken",
        "LockstepRefused",
        "LockstepTimeouts",
        "LossRefused",
        "NotConfigured",
        "OptimizerRefused",
        "ParameterUntrained",
        "PolicyRefused",
        "ProbeRefused",
        "RanksDiffer",
        "ReplayDiffers",
        "ReplayRefused",
        "RunNameRefused",
        "RunRecording",
        "load_exported",
        "read_recording",
    ),
    # esper.training cannot export them: its modules grow and replay have these names.
    "esper.training.grow": ("grow", "replay", "resume"),
}
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AUDITIONED",
    "DEFAULT_POLICY",
    "TOURNAMENT",
    "TOURNAMENT_REPORT_EVERY",
    "TOURNAMENT_SLOTS",
    "TRIALS",
    "BrokerUnreachable",
    "CheckpointRefused",
    "EsperError",
    "ExportError",
    "GovernorRefused",
    "GovernorSettings",
    "GrowConfig",
    "Growth",
    "GrowthClosed",
    "GrowthState",
    "GrowthStatus",
    "LeaderFailed",
    "LinkFailed",
    "LockstepBroken",
    "LockstepRefused",
    "LockstepTimeouts",
    "LossRefused",
    "MemorySnapshot",
    "NotConfigured",
    "OptimizerRefused",
    "Orchestration",
    "ParameterUntrained",
    "PolicyRefused",
    "PolicySpec",
    "Priors",
    "ProbeRefused",
    "RanksDiffer",
    "RecordUnfit",
    "ReplayDiffers",
    "ReplayRefused",
    "RunNameRefused",
    "RunRecording",
    "Selection",
    "SelectionLimits",
    "Settings",
    "SiteRefused",
    "TopicMismatch",
    "grow",
    "load_exported",
    "read_recording",
    "replay",
    "resume",
]

__version__ = VERSION


__getattr__ = lazy_attributes(__name__, _MODULES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
