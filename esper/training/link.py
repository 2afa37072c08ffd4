"""The run's link to Kafka: reports go out one at a time, kernels and decisions come in.

A sidecar process talks to the broker and the store (see `esper.link`).
"""

import logging
import time
from typing import Final

from esper.errors import EsperError
from esper.kernel import KernelRefused, KernelVerified
from esper.link import (
    AUDITIONS,
    Frame,
    Kind,
    LinkClient,
    LinkConfig,
    LinkRefused,
    Missing,
    RecordUnfit,
)
from esper.topics.bus import BrokerUnreachable, ConnectionRefused, TopicMismatch
from esper.topics.codec import decode, encode
from esper.topics.models import (
    Audition,
    AuditionResult,
    KernelReady,
    MemorySnapshot,
    RunRequest,
    SeedReport,
)
from esper.training.decision_queue import MAIL_LIMIT_S
from esper.training.frame_decoder import Deliver, FrameDecoder, OnDecision
from esper.training.ranks.relay import RelaySender
from esper.training.status import GrowthState, GrowthStatus

log = logging.getLogger("esper")

LATE_AFTER_S: Final = 2.0
"""Seconds after which an unconfirmed report is logged: growth pauses until it is confirmed."""

CLOSE_TIMEOUT_S: Final = 8.0


class LinkFailed(EsperError, RuntimeError):
    """The sidecar could not start; the message says why."""


class RunLink:
    """The link of the process that talks to Kafka through the sidecar.

    At most one report is in flight: the next one is made after the broker has confirmed it, so
    numbers never have a gap. `failure` is why no more reports can be made; `missing`, in lockstep,
    counts the kernels that the first report waits for; `recorded_reports` are those
    recorded after a resumed run's checkpoint; `memory` is the family's memory.
    """

    reports: Final = True
    no_checkpoint: Final = None

    def __init__(
        self, config: LinkConfig, decoder: FrameDecoder, relay: RelaySender | None = None
    ) -> None:
        """Prepare the link; `relay` forwards all data frames to the other ranks."""
        self._config = config
        self._decoder = decoder
        self._relay = relay
        self._client: LinkClient | None = None
        self._deliver: Deliver | None = None
        self._in_flight = False
        self._sent_at = 0.0
        self._late = False
        self.failure: str | None = None
        self.unread = False
        self._refused_decisions = 0
        self.missing: Missing | None = None
        self.recorded_reports: list[SeedReport] = []
        self.memory: MemorySnapshot | None = None

    @property
    def confirmed(self) -> bool:
        """Whether no report is in flight."""
        return not self._in_flight

    @property
    def status(self) -> GrowthStatus:
        """Whether reports can be made: not after a failure, nor while the broker is away."""
        state, reason = GrowthState.GROWING, None
        if self.failure is not None:
            state, reason = GrowthState.FAILED, self.failure
        elif self._late:
            state, reason = GrowthState.WAITING, "the broker does not confirm reports"
        return GrowthStatus(state, reason, self._refused_decisions)

    def open(self, deliver: Deliver, on_decision: OnDecision) -> None:
        """Start the sidecar, announce the run and subscribe to its decisions and kernels.

        `deliver` gets loadable kernels here and from `poll`, and kernels of decisions on another
        thread, as `on_decision` gets decisions with their records' timestamps (ms).

        Raises:
            BrokerUnreachable, TopicMismatch: no broker answers, or its topics differ.
            ConnectionRefused: a broker answered, and TLS or the log-in failed.
            LinkFailed: the sidecar could not start for another reason.
        """
        self._deliver = deliver
        try:
            self._client = LinkClient(
                self._config, lambda frame: self._on_frame(frame, deliver, on_decision)
            )
        except LinkRefused as error:
            raise self._named(error) from error
        if self._relay is not None:
            self._relay.start()
        # All that came before the run was open, however long it takes: the first report needs the
        # family's memory, and a resumed run every recorded report.
        while (message := self._client.next_message()) is not None:
            self._on_message(message)

    def poll(self) -> None:
        """Read the control channel: loadable kernels, and whether the last report is confirmed.

        What takes longer than `MAIL_LIMIT_S` is left for the next call.
        """
        if self._client is None or self.failure is not None:
            return
        self._client.flush()
        self.unread = False
        deadline = time.perf_counter() + MAIL_LIMIT_S
        while (message := self._client.next_message()) is not None:
            self._on_message(message)
            if time.perf_counter() > deadline:
                self.unread = True
                return
        if self._client.lost:
            self._fail("the link process has ended")

    def can_report(self) -> bool:
        """Return whether a report may be made now; log when growth pauses, resumes or ends."""
        self.poll()
        if not self._in_flight:
            return self.failure is None
        if not self._late and time.monotonic() - self._sent_at > LATE_AFTER_S:
            self._late = True
            log.warning("growth pauses: the broker does not confirm reports; training continues")
        return False

    def report(self, report: SeedReport) -> None:
        """Send a report; call only if `can_report()`."""
        assert self._client is not None
        self._client.send(Frame(Kind.REPORT, {}, encode(report)))
        self._in_flight = True
        self._sent_at = time.monotonic()

    def wait_to_report(self, deadline: float) -> bool:
        """Wait until a report can be sent; return False at the monotonic deadline or on failure."""
        while not self.can_report():
            if self.failure is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def send_snapshot(
        self, snapshot_id: str, site: str, step: int, samples: int, data: bytes | str
    ) -> None:
        """Send the snapshot of a site, or the reason for its absence, before its auditions."""
        head = {"snapshot_id": snapshot_id, "site": site, "step": step, "samples": samples}
        if isinstance(data, str):
            head["reason"], data = data, b""
        self._send(Frame(Kind.SNAPSHOT, head, data))

    def send_auditions(self, auditions: tuple[Audition, ...]) -> None:
        """Request the auditions of one rung; each kernel gets a result a site from `poll`."""
        seed = self._config.run_seed
        self._send(Frame(Kind.AUDITION, {"seed": seed}, AUDITIONS.dump_json(auditions)))

    def _send(self, frame: Frame) -> None:
        if self._client is not None:
            self._client.send(frame)

    def leave_ranks(self) -> None:
        """Stop forwarding frames to other ranks."""
        if self._relay is not None:
            self._relay.close()

    def close(self, *, leave_open: bool = False) -> None:
        """Announce the end of the run, unless it is left open, and disconnect."""
        if self._client is None:
            return
        messages = self._client.close(CLOSE_TIMEOUT_S, leave_open=leave_open)
        if any(message.kind is Kind.LEFT_OPEN for message in messages):
            log.warning("the broker is away: run %s stays marked open", self._config.run.run_id)
        self._client = None

    def _on_message(self, message: Frame) -> None:
        assert self._deliver is not None
        match message.kind:
            case Kind.CONFIRMED:
                self._in_flight = False
                self._refused_decisions = message.head["refused_decisions"]
                if self._late:
                    self._late = False
                    log.warning("growth resumes: the broker answers again")
            case Kind.FAILED:
                self._fail(message.head["reason"])
            case Kind.DECISION_REFUSED:
                log.error("%d decisions refused; %s", *message.head.values())
            case Kind.KERNEL_VERIFIED:
                self._deliver(KernelVerified(decode(KernelReady, message.body)))
            case Kind.REQUESTED:
                self._deliver(decode(RunRequest, message.body))
            case Kind.AUDITIONED:
                self._deliver(decode(AuditionResult, message.body))
            case Kind.KERNEL_REFUSED:
                self._deliver(KernelRefused(**message.head))
            case Kind.RECORDED:
                self.recorded_reports.append(decode(SeedReport, message.body))
            case Kind.MEMORY:
                self.memory = decode(MemorySnapshot, message.body)
            case Kind.MISSING:
                self.missing = Missing(**message.head)

    def _fail(self, why: str) -> None:
        # The report in flight may be lost, and after a gap in the sequence nothing is decided.
        self.failure = why
        if not self._config.lockstep:
            log.error("growth ends: %s; training continues", why)

    def _on_frame(self, frame: Frame, deliver: Deliver, on_decision: OnDecision) -> None:
        if self._relay is not None:
            self._relay.put(frame)
        self._decoder.on_frame(frame, deliver, on_decision)

    def _named(self, error: LinkRefused) -> Exception:
        """Return the sidecar's error as the exception that callers know."""
        if error.kind == BrokerUnreachable.__name__:
            return BrokerUnreachable(self._config.kafka, str(error).partition("; ")[2])
        if error.kind == ConnectionRefused.__name__:
            return ConnectionRefused(str(error))
        if error.kind == TopicMismatch.__name__:
            return TopicMismatch(str(error))
        if error.kind == RecordUnfit.__name__:
            return RecordUnfit(str(error))
        return LinkFailed(f"the link to Kafka cannot start: {error}")
