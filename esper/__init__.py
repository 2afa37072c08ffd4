"""Esper: neural networks that grow while they train.

`esper.grow` attaches growth to a training loop. Names are resolved on first use, so that a
process which only decides or audits never loads torch.
"""

from typing import TYPE_CHECKING

from esper.version import VERSION

if TYPE_CHECKING:
    from esper.training import Growth, grow

__all__ = ["Growth", "grow"]

__version__ = VERSION


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'esper' has no attribute {name!r}")
    from esper import training

    return getattr(training, name)
