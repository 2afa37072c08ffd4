"""`esper train`: train a shipped task that grows, replay a run, or retrain its static final.

In: a task name, options and the settings. Out: an exported network and the facts of its run.
Names that load torch are imported on first use, so that `esper --help` stays quick.
"""

from typing import TYPE_CHECKING

from esper.lazy import lazy_attributes
from esper.workers.cli.train.command import train

if TYPE_CHECKING:
    from esper.workers.cli.train.static_final import train_static_final
    from esper.workers.cli.train.summary import spread, summary
    from esper.workers.cli.train.trainer import REPORT_EVERY, GrownRun, GrowOptions, grow_task

_MODULES = {
    "REPORT_EVERY": ".trainer",
    "GrowOptions": ".trainer",
    "GrownRun": ".trainer",
    "grow_task": ".trainer",
    "spread": ".summary",
    "summary": ".summary",
    "train_static_final": ".static_final",
}

__all__ = [
    "REPORT_EVERY",
    "GrowOptions",
    "GrownRun",
    "grow_task",
    "spread",
    "summary",
    "train",
    "train_static_final",
]


__getattr__ = lazy_attributes(__name__, _MODULES)
