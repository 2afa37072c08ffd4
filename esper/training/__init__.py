"""Growth inside a training loop.

Kernels and decisions arrive through one mailbox, reports leave through the link, and the model
changes only inside `Growth.step`, on the thread that trains it. Names resolve on first use:
`GrowConfig` and its parts load without torch.
"""

from typing import TYPE_CHECKING, Final

from esper.lazy import lazy_attributes

if TYPE_CHECKING:
    from esper.link import RecordUnfit
    from esper.training.checkpoint import CheckpointRefused
    from esper.training.export import export_model, load_exported
    from esper.training.governor import Governor
    from esper.training.grow import REPORT_EVERY, RunNameRefused
    from esper.training.grow_config import GrowConfig, LockstepTimeouts, config_table
    from esper.training.growth import Growth, GrowthClosed, LossRefused
    from esper.training.lineage import LINEAGE, Lineage, LineageUnreadable, RunHistory, read_lineage
    from esper.training.link import LinkFailed
    from esper.training.link_config import NotConfigured, trusted_key_of
    from esper.training.lockstep import LockstepBroken, LockstepRefused
    from esper.training.loss_monitor import GovernorRefused, GovernorSettings
    from esper.training.optimizer import OptimizerMembership, OptimizerRefused, ParameterUntrained
    from esper.training.probe import ON_TRIAL, ProbeRefused, ProbeResult
    from esper.training.ranks import LeaderFailed, RanksDiffer
    from esper.training.recording import (
        ReplayRefused,
        RunRecording,
        kernel_store_of,
        read_recording,
    )
    from esper.training.replay import ReplayDiffers
    from esper.training.reporter import Reporter
    from esper.training.run_config import PolicyRefused
    from esper.training.seed_manager import SeedManager
    from esper.training.source import ExportError
    from esper.training.static import StaticNetwork, StaticNetworkRefused, static_network
    from esper.training.status import GrowthState, GrowthStatus

_MODULES: Final = {
    "CheckpointRefused": "esper.training.checkpoint",
    "ExportError": "esper.training.source",
    "Governor": "esper.training.governor",
    "GovernorRefused": "esper.training.loss_monitor",
    "GovernorSettings": "esper.training.loss_monitor",
    "GrowConfig": "esper.training.grow_config",
    "Growth": "esper.training.growth",
    "GrowthClosed": "esper.training.growth",
    "GrowthState": "esper.training.status",
    "GrowthStatus": "esper.training.status",
    "LINEAGE": "esper.training.lineage",
    "LeaderFailed": "esper.training.ranks",
    "Lineage": "esper.training.lineage",
    "LineageUnreadable": "esper.training.lineage",
    "LinkFailed": "esper.training.link",
    "LockstepBroken": "esper.training.lockstep",
    "LockstepRefused": "esper.training.lockstep",
    "LockstepTimeouts": "esper.training.grow_config",
    "LossRefused": "esper.training.growth",
    "NotConfigured": "esper.training.link_config",
    "ON_TRIAL": "esper.training.probe",
    "OptimizerMembership": "esper.training.optimizer",
    "OptimizerRefused": "esper.training.optimizer",
    "ParameterUntrained": "esper.training.optimizer",
    "PolicyRefused": "esper.training.run_config",
    "ProbeRefused": "esper.training.probe",
    "ProbeResult": "esper.training.probe",
    "REPORT_EVERY": "esper.training.grow",
    "RanksDiffer": "esper.training.ranks",
    "RecordUnfit": "esper.link",
    "ReplayDiffers": "esper.training.replay",
    "ReplayRefused": "esper.training.recording",
    "Reporter": "esper.training.reporter",
    "RunHistory": "esper.training.lineage",
    "RunNameRefused": "esper.training.grow",
    "RunRecording": "esper.training.recording",
    "SeedManager": "esper.training.seed_manager",
    "StaticNetwork": "esper.training.static",
    "StaticNetworkRefused": "esper.training.static",
    "config_table": "esper.training.grow_config",
    "export_model": "esper.training.export",
    "load_exported": "esper.training.export",
    "read_lineage": "esper.training.lineage",
    "read_recording": "esper.training.recording",
    "static_network": "esper.training.static",
    "kernel_store_of": "esper.training.recording",
    "trusted_key_of": "esper.training.link_config",
}

__all__ = [
    "LINEAGE",
    "ON_TRIAL",
    "REPORT_EVERY",
    "CheckpointRefused",
    "ExportError",
    "Governor",
    "GovernorRefused",
    "GovernorSettings",
    "GrowConfig",
    "Growth",
    "GrowthClosed",
    "GrowthState",
    "GrowthStatus",
    "LeaderFailed",
    "Lineage",
    "LineageUnreadable",
    "LinkFailed",
    "LockstepBroken",
    "LockstepRefused",
    "LockstepTimeouts",
    "LossRefused",
    "NotConfigured",
    "OptimizerMembership",
    "OptimizerRefused",
    "ParameterUntrained",
    "PolicyRefused",
    "ProbeRefused",
    "ProbeResult",
    "RanksDiffer",
    "RecordUnfit",
    "ReplayDiffers",
    "ReplayRefused",
    "Reporter",
    "RunHistory",
    "RunNameRefused",
    "RunRecording",
    "SeedManager",
    "StaticNetwork",
    "StaticNetworkRefused",
    "config_table",
    "export_model",
    "kernel_store_of",
    "load_exported",
    "read_lineage",
    "read_recording",
    "static_network",
    "trusted_key_of",
]


__getattr__ = lazy_attributes(__name__, _MODULES)


def __dir__() -> list[str]:
    return __all__
