"""The audition worker: kernels trained beside the trainings, and scored."""

from esper.workers.audition.worker import NoDevice, run_audition_worker

__all__ = ["NoDevice", "run_audition_worker"]
