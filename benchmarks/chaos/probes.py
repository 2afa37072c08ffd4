"""Two requests each second, as clients send them: a new blueprint, and a report to be answered."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from benchmarks.result import rounded
from benchmarks.submissions import of_one_kind, renamed
from esper.bandit import DEFAULT_POLICY
from esper.settings import Settings
from esper.topics.bus import Bus, Record, StartOffset
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BLUEPRINT_SUBMITTED,
    KERNEL_READY,
    SEED_METRICS,
    TRAINING_RUN,
)
from esper.topics.codec import decode
from esper.topics.models import (
    AdaptationDecision,
    Blueprint,
    KernelReady,
    RunConfig,
    RunStatus,
    SeedReport,
    SiteKind,
    SiteSignature,
    TrainingRun,
)

EVERY_S: Final = 1.0
LIMIT_S: Final = 10.0
"""A probe that is answered within this time counts as available."""

ANSWER_LIMIT_S: Final = 300.0
"""Longest wait for the last answers: on a busy machine too, all come."""

KERNELS: Final = 4096
"""Kernels that the runs may have: one for each probe."""

RUN_ID: Final = "chaos-probe"
SITE: Final = SiteSignature(kind=SiteKind.SEQUENCE, x=(4, 8), h=(4, 8))
"""A kind of site that the trainers lack: they are not offered the probes' kernels."""
CONFIG: Final = RunConfig(
    seed=0,
    slots={"fc1": 1},
    policy=DEFAULT_POLICY,
    host_params=1000,
    report_interval_steps=20,
    lockstep=True,
    contract=3,
)


@dataclass(slots=True)
class Probe:
    """One request: when it was sent, and when it was answered; seconds since the start."""

    name: str
    sent_s: float
    answered_s: float | None = None

    @property
    def answer_s(self) -> float:
        """Seconds until the answer; infinite without one."""
        return inf if self.answered_s is None else self.answered_s - self.sent_s

    @property
    def in_time(self) -> bool:
        """Whether the answer came within the limit."""
        return self.answer_s <= LIMIT_S


class Probes:
    """Sends probes until `stop`; a report is sent only after the last one was answered."""

    def __init__(self, settings: Settings, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._bus = Bus.connect(settings.kafka_bootstrap_servers, source="/esper/chaos")
        self.blueprints: dict[str, Probe] = {}
        self.reports: dict[int, Probe] = {}
        self._run = TrainingRun(
            run_id=RUN_ID,
            status=RunStatus.OPEN,
            sites={"fc1": SITE},
            kernels_per_site=KERNELS,
            kernels_per_publisher=KERNELS,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, name="chaos-probes", daemon=True)

    def start(self) -> None:
        """Open the run of the probes, and start to send."""
        self._bus.consume(KERNEL_READY.name, self._on_ready, start=StartOffset.LATEST)
        self._bus.consume(ADAPTATION_DECISION.name, self._on_decision, key=RUN_ID.encode())
        self._bus.publish(TRAINING_RUN, self._run).result(ANSWER_LIMIT_S)
        self._thread.start()

    def stop(self) -> None:
        """Send no more, wait for the last answers, and close the run."""
        self._stopping.set()
        self._thread.join()
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < deadline and not self._all_answered():
            time.sleep(0.2)
        self._publish_report(len(self.reports), closing=True)
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        self._bus.publish(TRAINING_RUN, closed).result(ANSWER_LIMIT_S)
        self._bus.close(ANSWER_LIMIT_S)

    def availability(self, outages: Iterable[tuple[float, float]]) -> dict[str, list[bool]]:
        """Return for each window of a second, by kind of probe, whether its probe was in time.

        Windows that an outage touches, from the probe to its limit, are left out.
        """
        away = list(outages)
        kinds: dict[str, Iterable[Probe]] = {
            "blueprint": self.blueprints.values(),
            "report": self.reports.values(),
        }
        return {
            kind: [probe.in_time for probe in probes if not _touched(probe, away)]
            for kind, probes in kinds.items()
        }

    def curves(self) -> dict[str, tuple[float, ...]]:
        """Return when each probe was sent, and seconds until its answer, by kind."""
        kinds = {
            "blueprint": list(self.blueprints.values()),
            "report": list(self.reports.values()),
        }
        sent = {f"{kind}-sent": [one.sent_s for one in all_] for kind, all_ in kinds.items()}
        answers = {f"{kind}-answer": [one.answer_s for one in all_] for kind, all_ in kinds.items()}
        return {name: tuple(map(rounded, values)) for name, values in (sent | answers).items()}

    def _all_answered(self) -> bool:
        probes = (*self.blueprints.values(), *self.reports.values())
        return all(probe.answered_s is not None for probe in probes)

    def _send(self) -> None:
        entries = _sequence_blueprints()
        while not self._stopping.wait(EVERY_S):
            blueprint = renamed(next(entries), f"-chaos-{len(self.blueprints)}")
            self.blueprints[blueprint.blueprint_id] = Probe(blueprint.blueprint_id, self._now_s())
            self._bus.publish(BLUEPRINT_SUBMITTED, blueprint)
            last = self.reports.get(len(self.reports) - 1)
            if last is None or last.answered_s is not None:
                seq = len(self.reports)
                self.reports[seq] = Probe(str(seq), self._now_s())
                self._publish_report(seq)

    def _publish_report(self, seq: int, *, closing: bool = False) -> None:
        report = SeedReport(
            run_id=RUN_ID,
            seq=seq,
            step=20 * seq,
            run_config=CONFIG if seq == 0 else None,
            closing=closing,
        )
        self._bus.publish(SEED_METRICS, report)

    def _on_ready(self, record: Record) -> None:
        probe = self.blueprints.get(decode(KernelReady, record.value).blueprint_id)
        if probe is not None and probe.answered_s is None:
            probe.answered_s = self._now_s()

    def _on_decision(self, record: Record) -> None:
        probe = self.reports.get(decode(AdaptationDecision, record.value).seq)
        if probe is not None and probe.answered_s is None:
            probe.answered_s = self._now_s()


def _sequence_blueprints() -> Iterator[Blueprint]:
    """Yield the shipped blueprints for sequences endlessly."""
    while True:
        yield from (one for one in of_one_kind() if one.kinds == (SiteKind.SEQUENCE,))


def _touched(probe: Probe, outages: list[tuple[float, float]]) -> bool:
    until_s = probe.sent_s + LIMIT_S
    return any(start < until_s and end > probe.sent_s for start, end in outages)
