"""The run's link to Kafka: reports out one at a time, kernels and decisions in.

What speaks to the broker and the store is a process of its own (see `esper.link`).
"""

import logging
import time
from typing import Final

from esper.kernel import KernelRefused, KernelVerified
from esper.link import Frame, Kind, LinkClient, LinkConfig, LinkRefused, Missing, RecordUnfit
from esper.topics.bus import BrokerUnreachable, TopicMismatch
from esper.topics.codec import decode, encode
from esper.topics.models import KernelReady, MemorySnapshot, RunRequest, SeedReport
from esper.training.frame_decoder import Deliver, FrameDecoder, HearDecision
from esper.training.ranks.relay import RelaySender

log = logging.getLogger("esper")

LATE_AFTER_S: Final = 2.0
"""An unconfirmed report older than this is worth a line: growth stands still meanwhile."""

CLOSE_TIMEOUT_S: Final = 8.0


class LinkFailed(RuntimeError):
    """The link process could not start; the message says why."""


class RunLink:
    """What a run says and hears.

    At most one report is under way: the next is not made before the broker has confirmed it. So a
    report either has its place in the sequence or was never numbered, whatever the broker does.
    `failure` says why none can be made any more; `missing`, in a lockstep run, which kernels are
    still to come before its first; `logged`, in one that goes on, what is on record already;
    `memory`, in one that is to have it, what earlier runs found.
    """

    reports: Final = True

    def __init__(
        self, config: LinkConfig, decoder: FrameDecoder, relay: RelaySender | None = None
    ) -> None:
        """`relay` passes all mail on to other ranks."""
        self._order = config
        self._decoder = decoder
        self._relay = relay
        self._client: LinkClient | None = None
        self._deliver: Deliver | None = None
        self._under_way = False
        self._sent_at = 0.0
        self._late = False
        self.failure: str | None = None
        self.missing: Missing | None = None
        self.logged: list[SeedReport] = []
        self.memory: MemorySnapshot | None = None

    @property
    def confirmed(self) -> bool:
        """Whether no report is under way."""
        return not self._under_way

    def open(self, deliver: Deliver, on_decision: HearDecision) -> None:
        """Announce the run, and hear from now on of its decisions and of kernels for its sites.

        `deliver` gets kernels on offer from `take`, and kernels of decisions on another thread, as
        `on_decision` gets decisions with their records' timestamps (ms).

        Raises:
            BrokerUnreachable, TopicMismatch: there is no broker, or it is not set up.
            LinkFailed: something else is in the way.
        """
        self._deliver = deliver
        try:
            self._client = LinkClient(
                self._order, lambda frame: self._hear(frame, deliver, on_decision)
            )
        except LinkRefused as error:
            raise self._named(error) from error
        if self._relay is not None:
            self._relay.start()

    def take(self) -> None:
        """Take in what has come: kernels on offer, and whether the last report has arrived."""
        if self._client is None or self.failure is not None:
            return
        for note in self._client.notes():
            self._note(note)
        if self._client.lost:
            self._fail("the link process has ended")

    def free(self) -> bool:
        """Whether a report may be made now; says in the log when growth pauses, resumes or ends."""
        self.take()
        if not self._under_way:
            return self.failure is None
        if not self._late and time.monotonic() - self._sent_at > LATE_AFTER_S:
            self._late = True
            log.warning(
                "growth pauses: the broker does not confirm reports; training goes on as it is"
            )
        return False

    def report(self, report: SeedReport) -> None:
        """Send a report; only while `free`."""
        assert self._client is not None
        self._client.send(Frame(Kind.REPORT, {}, encode(report)))
        self._under_way = True
        self._sent_at = time.monotonic()

    def wait_free(self, deadline: float) -> bool:
        """Wait, on the monotonic clock, until a report may be made; False where none may be."""
        while not self.free():
            if self.failure is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def part_from_ranks(self) -> None:
        """Let other ranks go, if there are any: what comes now is not for them."""
        if self._relay is not None:
            self._relay.close()

    def close(self, *, leave_open: bool = False) -> None:
        """Announce that the run wants no more kernels, unless left open, and disconnect."""
        if self._client is None:
            return
        notes = self._client.close(CLOSE_TIMEOUT_S, leave_open=leave_open)
        if any(note.kind is Kind.LEFT_OPEN for note in notes):
            log.warning("the broker is away: run %s stays marked open", self._order.run.run_id)
        self._client = None

    def _note(self, note: Frame) -> None:
        assert self._deliver is not None
        match note.kind:
            case Kind.CONFIRMED:
                self._under_way = False
                if self._late:
                    self._late = False
                    log.warning("growth resumes: the broker answers again")
            case Kind.FAILED:
                self._fail(f"a report cannot be sent ({note.head['reason']})")
            case Kind.KERNEL_VERIFIED:
                self._deliver(KernelVerified(decode(KernelReady, note.body)))
            case Kind.ASKED:
                self._deliver(decode(RunRequest, note.body))
            case Kind.KERNEL_REFUSED:
                self._deliver(KernelRefused(**note.head))
            case Kind.LOGGED:
                self.logged.append(decode(SeedReport, note.body))
            case Kind.MEMORY:
                self.memory = decode(MemorySnapshot, note.body)
            case Kind.MISSING:
                self.missing = Missing(**note.head)

    def _fail(self, why: str) -> None:
        # The number of a report under way is taken and may never arrive: after a hole nothing is
        # decided any more.
        self.failure = why
        if not self._order.lockstep:
            log.error("growth ends: %s; training goes on as it is", why)

    def _hear(self, frame: Frame, deliver: Deliver, on_decision: HearDecision) -> None:
        if self._relay is not None:
            self._relay.put(frame)
        self._decoder.on_frame(frame, deliver, on_decision)

    def _named(self, error: LinkRefused) -> Exception:
        """Return the error that the process met, as the exception that callers know."""
        if error.kind == BrokerUnreachable.__name__:
            return BrokerUnreachable(self._order.bootstrap_servers)
        if error.kind == TopicMismatch.__name__:
            return TopicMismatch(str(error))
        if error.kind == RecordUnfit.__name__:
            return RecordUnfit(str(error))
        return LinkFailed(f"the link to Kafka cannot start: {error}")
