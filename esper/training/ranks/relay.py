"""What rank 0 hears, passed on to the other ranks by threads of their own."""

import logging
import threading
from queue import SimpleQueue
from typing import Final

from esper.link import Frame, FrameReader
from esper.topics.models import SeedReport
from esper.training.frame_decoder import Deliver, FrameDecoder, HearDecision
from esper.training.ranks.groups import LeaderFailed, Ranks, broadcast
from esper.training.source import one_line

log = logging.getLogger("esper")

END: Final = b""
PART_TIMEOUT_S: Final = 5.0


class RelaySender:
    """Rank 0's end: sends frames to the other ranks, in order, without ever waiting."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._frames: SimpleQueue[bytes] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="esper-relay", daemon=True)

    def start(self) -> None:
        """Begin to send, also what was put before; it arrives once the others hear."""
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Have a frame sent."""
        self._frames.put(frame.packed())

    def close(self) -> None:
        """Tell the others that nothing more comes."""
        self._frames.put(END)
        self._thread.join(PART_TIMEOUT_S)

    def _run(self) -> None:
        data = None
        while data != END:
            data = self._frames.get()
            try:
                broadcast(self._ranks.decoder, data)
            except RuntimeError as error:
                log.warning("rank 0 reaches the other ranks no more: %s", one_line(error))
                return


class RelayedLink:
    """The link of a rank that has none to Kafka: what it hears is what rank 0 heard."""

    reports: Final = False
    memory: Final = None

    def __init__(self, ranks: Ranks, decoder: FrameDecoder) -> None:
        self.logged: list[SeedReport] = []
        self._ranks = ranks
        self._decoder = decoder
        self._thread: threading.Thread | None = None

    def open(self, deliver: Deliver, on_decision: HearDecision) -> None:
        """Wait for rank 0 to have begun the run, and hear from now on what it hears.

        Raises:
            LeaderFailed: it could not.
        """
        if why := self._ranks.share(None):
            raise LeaderFailed(why.decode())
        self._thread = threading.Thread(
            target=self._hear, args=(deliver, on_decision), name="esper-relay", daemon=True
        )
        self._thread.start()

    def take(self) -> None:
        """Do nothing: rank 0 alone tells what is on offer."""

    def free(self) -> bool:
        """Return that no report may be made here."""
        return False

    def report(self, report: SeedReport) -> None:
        """Never called."""
        raise AssertionError(f"report {report.seq} on rank {self._ranks.rank}")

    def wait_free(self, deadline: float) -> bool:
        """Return that no report may be made here."""
        return False

    def part_from_ranks(self) -> None:
        """Hear rank 0 out, which ends the run at the same step."""
        if self._thread is not None:
            self._thread.join(PART_TIMEOUT_S)

    def close(self, *, leave_open: bool = False) -> None:
        """Do nothing: no broker knows of this rank."""

    def _hear(self, deliver: Deliver, on_decision: HearDecision) -> None:
        reader = FrameReader()
        while True:
            try:
                data = broadcast(self._ranks.decoder, None)
            except RuntimeError as error:
                log.warning("rank 0 is heard no more: %s", one_line(error))
                return
            if data == END:
                return
            for frame in reader.feed(data):
                self._decoder.on_frame(frame, deliver, on_decision)
