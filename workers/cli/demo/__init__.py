"""`esper demo`: services, workers, one growing run, export and audit, start to end.

Out: the facts of the run, its audit, and a comparison with the exported network. Names that load
torch are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esper.workers.cli.demo.command import demo

if TYPE_CHECKING:
    from esper.workers.cli.demo.export_check import compare_in_fresh_interpreter
    from esper.workers.cli.demo.run import run_demo

_MODULES = {"compare_in_fresh_interpreter": "export_check", "run_demo": "run"}

__all__ = ["compare_in_fresh_interpreter", "demo", "run_demo"]


def __getattr__(name: str) -> Any:
    """Import the module that defines an exported name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
