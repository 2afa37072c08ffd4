"""`esper demo`: services, workers, one growing run, export and audit, start to end.

Out: the facts of the run, its audit, and a comparison with the exported network. Names that load
torch are imported on first use.
"""

from typing import TYPE_CHECKING

from esper.lazy import lazy_attributes
from esper.workers.cli.demo.command import demo

if TYPE_CHECKING:
    from esper.workers.cli.demo.export_check import compare_in_fresh_interpreter
    from esper.workers.cli.demo.run import run_demo

_MODULES = {"compare_in_fresh_interpreter": ".export_check", "run_demo": ".run"}

__all__ = ["compare_in_fresh_interpreter", "demo", "run_demo"]


__getattr__ = lazy_attributes(__name__, _MODULES)
