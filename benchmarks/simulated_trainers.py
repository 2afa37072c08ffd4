"""Many trainers in a few processes: each is a real sidecar that fetches no kernels.

What a sidecar sends to its training process is counted here and dropped.
"""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple, Self

from benchmarks.report_load import REPORTS_A_DECISION, report
from benchmarks.result import BenchmarkError
from esper.link import Frame, Kind, LinkConfig
from esper.link.outbox import Outbox
from esper.link.sidecar import Sidecar
from esper.settings import Settings
from esper.topics.catalog import ADAPTATION_DECISION, KERNEL_READY
from esper.topics.codec import decode, encode
from esper.topics.models import (
    AdaptationDecision,
    KernelReady,
    RunStatus,
    SiteSignature,
    TrainingRun,
)

ANSWER_TIMEOUT_S: Final = 600.0
DECISIONS_TIMEOUT_S: Final = 60.0
OPENING_TOGETHER: Final = 4
"""Trainers of a process that open at the same time."""


class Traffic(NamedTuple):
    """Records and bytes of both topics that a trainer received, and the records meant for it."""

    announcements: int
    announcement_bytes: int
    own_announcements: int
    decisions: int
    decision_bytes: int
    own_decisions: int


class Pace(NamedTuple):
    """Reports of each trainer, and the seconds between two of them."""

    reports: int
    interval_s: float


class _Sink(Outbox):
    """Takes the frames of a sidecar; notes when decisions arrived, by `seq` of the report."""

    def __init__(self) -> None:
        self.decided_s: dict[int, float] = {}
        self.decisions = 0
        self.failures: list[str] = []

    def put(self, frame: Frame) -> None:
        if frame.kind is Kind.DECISION:
            self.decisions += 1
            seq = decode(AdaptationDecision, frame.body).seq
            self.decided_s.setdefault(seq, time.perf_counter())
        elif frame.kind in (Kind.FAILED, Kind.DECISION_REFUSED):
            self.failures.append(str(frame.head.get("reason")))

    def close(self) -> None:
        pass


class _NoLoader:
    """Stands in for the kernel loader: counts announcements, and fetches nothing."""

    def __init__(self) -> None:
        self.verified: set[str] = set()

    def verify(self, ready: KernelReady) -> None:
        self.verified.add(ready.kernel_id)

    def prepare(self, token: str, kernel_ids: Iterable[str]) -> None:
        pass

    def revoke(self, sha256: str, reason: str) -> None:
        pass

    def withdraw(self, kernel_id: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Trainer(Sidecar):
    """A sidecar without a training process."""

    def __init__(self, config: LinkConfig) -> None:
        self.run_id = config.run.run_id
        self.sink = _Sink()
        super().__init__(config, self.sink, self.sink)
        self._loader.close()
        self.loader = _NoLoader()
        self._loader = self.loader  # type: ignore[assignment]
        self._sent_s: dict[int, float] = {}

    def send(self, seq: int) -> None:
        """Publish a report of the load."""
        value = encode(report(self.run_id, seq))
        self._sent_s[seq] = time.perf_counter()
        self.report(value)

    def latencies_s(self) -> list[float]:
        """Return the seconds from each answered report to its first decision."""
        return [arrived - self._sent_s[seq] for seq, arrived in self.sink.decided_s.items()]

    def traffic(self) -> Traffic:
        """Return what was received so far."""
        ready, decided = (
            self.received[topic.name] for topic in (KERNEL_READY, ADAPTATION_DECISION)
        )
        return Traffic(
            ready.records,
            ready.bytes,
            len(self.loader.verified),
            decided.records,
            decided.bytes,
            self.sink.decisions,
        )


def config_of(settings: Settings, run_id: str, signatures: Sequence[SiteSignature]) -> LinkConfig:
    """Return the configuration of a trainer with a site of each signature."""
    sites = {f"site{number}": signature for number, signature in enumerate(signatures)}
    return LinkConfig(
        kafka=settings.kafka,
        kernel_store=settings.kernel_store_spec,
        trusted_key_file=str(settings.trusted_key_file),
        source="/esper/benchmark",
        run=TrainingRun(run_id=run_id, status=RunStatus.OPEN, sites=sites),
    )


class Trainers:
    """The parent's handle of simulated trainers in other processes; a context manager."""

    def __init__(self, configs: Sequence[LinkConfig], processes: int) -> None:
        """Start the processes; `configs` has one configuration for each trainer."""
        context = get_context("spawn")
        self._links: list[Connection] = []
        self._processes = []
        for number in range(min(processes, len(configs))):
            link, other_end = context.Pipe()
            share = [config.to_socket() for config in configs[number::processes]]
            process = context.Process(target=_serve, args=(other_end, share), daemon=True)
            process.start()
            # While this end is open here, `poll` would not notice that the process died.
            other_end.close()
            self._links.append(link)
            self._processes.append(process)

    def __enter__(self) -> Self:
        try:
            self._ask("open")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("close")
        finally:
            self._end()

    def traffic(self) -> list[Traffic]:
        """Return what each trainer received so far."""
        return self._ask("traffic")

    def report(self, pace: Pace) -> list[float]:
        """Let every trainer report; return the seconds from each answered report to its decision.

        Raises:
            BenchmarkError: a trainer refused a decision or lost its link.
        """
        return self._ask("report", pace)

    def _ask(self, what: str, argument: object = None) -> list[Any]:
        for link in self._links:
            link.send((what, argument))
        return [one for link in self._links for one in self._answer(link, what)]

    def _answer(self, link: Connection, what: str) -> list[Any]:
        try:
            if not link.poll(ANSWER_TIMEOUT_S):
                raise BenchmarkError(f"simulated trainers did not {what} in {ANSWER_TIMEOUT_S:g} s")
            answer: list[Any] | str = link.recv()
        except EOFError as error:
            raise BenchmarkError("a process of simulated trainers ended; see its error") from error
        if isinstance(answer, str):
            raise BenchmarkError(answer)
        return answer

    def _end(self) -> None:
        for process in self._processes:
            process.join(1.0)
            process.kill()
            process.join()


def _serve(link: Connection, configs: list[bytes]) -> None:
    trainers: list[_Trainer] = []
    while True:
        what, argument = link.recv()
        match what:
            case "open":
                with ThreadPoolExecutor(OPENING_TOGETHER) as threads:
                    trainers += threads.map(_opened, configs)
                link.send([])
            case "traffic":
                link.send([trainer.traffic() for trainer in trainers])
            case "report":
                _report(trainers, argument)
                link.send(_latencies_s(trainers, argument))
            case _:
                with ThreadPoolExecutor(OPENING_TOGETHER) as threads:
                    list(threads.map(_Trainer.close, trainers))
                link.send([])
                return


def _opened(config: bytes) -> _Trainer:
    trainer = _Trainer(LinkConfig.model_validate_json(config))
    trainer.open()
    return trainer


def _report(trainers: Sequence[_Trainer], pace: Pace) -> None:
    """Send the reports of all trainers, spread evenly over each interval."""
    start = time.monotonic()
    for seq in range(pace.reports):
        for number, trainer in enumerate(trainers):
            due = start + pace.interval_s * (seq + number / len(trainers))
            time.sleep(max(0.0, due - time.monotonic()))
            trainer.send(seq)
    expected = range(0, pace.reports, REPORTS_A_DECISION)
    deadline = time.monotonic() + DECISIONS_TIMEOUT_S
    while any(len(trainer.sink.decided_s) < len(expected) for trainer in trainers):
        if time.monotonic() > deadline or any(trainer.sink.failures for trainer in trainers):
            return
        time.sleep(0.1)


def _latencies_s(trainers: Sequence[_Trainer], pace: Pace) -> list[float] | str:
    """Return the seconds to each decision, or why some are missing."""
    if failures := [reason for trainer in trainers for reason in trainer.sink.failures]:
        return failures[0]
    found = [seconds for trainer in trainers for seconds in trainer.latencies_s()]
    expected = len(trainers) * len(range(0, pace.reports, REPORTS_A_DECISION))
    if len(found) != expected:
        return f"{len(found)} of {expected} decisions came; see the log of the bandit worker"
    return found
