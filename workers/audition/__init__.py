"""The audition worker: kernels trained beside the trainings, and scored."""

from esper.workers.audition.worker import run_audition_worker

__all__ = ["run_audition_worker"]
