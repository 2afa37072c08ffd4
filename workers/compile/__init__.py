"""The compile worker: blueprints and runs in, signed kernels in the store out.

The planner asks for one kernel per blueprint and site signature; the compiler builds, validates,
signs, stores and announces each of them.
"""

from esper.workers.compile.worker import run_compile_worker

__all__ = ["run_compile_worker"]
