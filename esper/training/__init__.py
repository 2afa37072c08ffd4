"""Growth in a training loop: what the user's process does between two of its steps.

Kernels and decisions come in through one mailbox; reports go out; the model changes only inside
`Growth.step`, on the thread that trains it.
"""

from esper.link import RecordUnfit
from esper.training.checkpoint import CheckpointRefused
from esper.training.export import export_model
from esper.training.grow import grow
from esper.training.growth import Growth, GrowthClosed, LossRefused
from esper.training.lockstep import LockstepBroken, LockstepRefused, LockstepTimeouts
from esper.training.loss_monitor import GovernorRefused, GovernorSettings
from esper.training.recording import Recording, ReplayRefused, read_recording
from esper.training.replay import ReplayDiffers
from esper.training.run_config import PolicyRefused
from esper.training.source import ExportError

__all__ = [
    "CheckpointRefused",
    "ExportError",
    "GovernorRefused",
    "GovernorSettings",
    "Growth",
    "GrowthClosed",
    "LockstepBroken",
    "LockstepRefused",
    "LockstepTimeouts",
    "LossRefused",
    "PolicyRefused",
    "RecordUnfit",
    "Recording",
    "ReplayDiffers",
    "ReplayRefused",
    "export_model",
    "grow",
    "read_recording",
]
