"""The run's link to Kafka: reports out one at a time, kernels and decisions in."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from topics.bus import Bus, Position, Record, Start
from topics.catalog import ADAPTATION_DECISION, KERNEL_READY, SEED_METRICS, TRAINING_RUN
from topics.codec import Undecodable, decode
from topics.models import AdaptationDecision, KernelReady, RunStatus, SeedReport, TrainingRun

log = logging.getLogger("esper")

LATE_AFTER_S = 2.0
"""An unconfirmed report older than this is worth a line: growth stands still meanwhile."""

OPEN_TIMEOUT_S = 10.0


class RunLink:
    """What a run says and hears.

    At most one report is under way: the next is not made before the broker has confirmed it. So a
    report either has its place in the sequence or was never numbered, whatever the broker does.
    """

    def __init__(self, bus: Bus, run: TrainingRun) -> None:
        self._bus = bus
        self._run = run
        self._under_way: Future[Position] | None = None
        self._sent_at = 0.0
        self._late = False
        self._failed = False

    def open(
        self,
        on_kernel: Callable[[KernelReady], None],
        on_decision: Callable[[AdaptationDecision, int], None],
    ) -> None:
        """Announce the run, and hear from now on of its decisions and of all kernels.

        Callbacks run on the bus's thread; `on_decision` also gets the record's timestamp (ms).
        """
        key = self._run.run_id.encode()
        self._bus.follow(
            ADAPTATION_DECISION.name,
            lambda record: self._hear_decision(record, on_decision),
            key=key,
        )
        self._bus.follow(
            KERNEL_READY.name, lambda record: _hear_kernel(record, on_kernel), start=Start.BEGINNING
        )
        self._bus.publish(TRAINING_RUN, self._run).result(OPEN_TIMEOUT_S)

    def free(self) -> bool:
        """Whether a report may be made now; says in the log when growth pauses, resumes or ends."""
        if self._under_way is None:
            return not self._failed
        if self._under_way.done():
            self._settle(self._under_way)
            self._under_way = None
            return not self._failed
        if not self._late and time.monotonic() - self._sent_at > LATE_AFTER_S:
            self._late = True
            log.warning(
                "growth pauses: the broker does not confirm reports; training goes on as it is"
            )
        return False

    def report(self, report: SeedReport) -> None:
        """Send a report; only while `free`."""
        self._under_way = self._bus.publish(SEED_METRICS, report)
        self._sent_at = time.monotonic()

    def wait_free(self, deadline: float) -> bool:
        """Wait, on the monotonic clock, until a report may be made; False where none may be."""
        while not self.free():
            if self._failed or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def close(self) -> None:
        """Announce that the run wants no more kernels, and disconnect."""
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        try:
            self._bus.publish(TRAINING_RUN, closed).result(LATE_AFTER_S)
        except TimeoutError:
            log.warning("the broker is away: run %s stays marked open", self._run.run_id)
        finally:
            self._bus.close()

    def _settle(self, report: Future[Position]) -> None:
        if error := report.exception():
            # Its number is taken and will never arrive: after a hole nothing is decided any more.
            self._failed = True
            log.error("growth ends: a report cannot be sent (%s); training goes on as it is", error)
        elif self._late:
            self._late = False
            log.warning("growth resumes: the broker answers again")

    def _hear_decision(
        self, record: Record, on_decision: Callable[[AdaptationDecision, int], None]
    ) -> None:
        try:
            decision = decode(AdaptationDecision, record.value)
        except Undecodable as error:
            log.error("decision at offset %d is not readable: %s", record.offset, error)
            return
        if decision.run_id != self._run.run_id:
            log.error("decision at offset %d is of another run: %s", record.offset, decision.run_id)
            return
        on_decision(decision, record.timestamp_ms)


def _hear_kernel(record: Record, on_kernel: Callable[[KernelReady], None]) -> None:
    try:
        ready = decode(KernelReady, record.value)
    except Undecodable as error:
        log.error("kernel-ready[%d]@%d is not readable: %s", record.partition, record.offset, error)
        return
    on_kernel(ready)
