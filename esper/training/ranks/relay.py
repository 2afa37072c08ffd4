"""Relaying of rank 0's frames to the other ranks, on threads of their own."""

import logging
import threading
from queue import SimpleQueue
from typing import Final

from esper.link import Frame, FrameReader
from esper.topics.models import SeedReport
from esper.training.frame_decoder import Deliver, FrameDecoder, OnDecision
from esper.training.ranks.groups import LeaderFailed, Ranks, broadcast
from esper.training.source import one_line
from esper.training.status import GrowthState, GrowthStatus

log = logging.getLogger("esper")

END: Final = b""
PART_TIMEOUT_S: Final = 5.0


class RelaySender:
    """Sends rank 0's frames to the other ranks in order; `put` never waits."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._frames: SimpleQueue[bytes] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="esper-relay", daemon=True)

    def start(self) -> None:
        """Start to send, including frames put before."""
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Queue a frame."""
        self._frames.put(frame.packed())

    def close(self) -> None:
        """Send the end of the stream and wait for the thread."""
        self._frames.put(END)
        self._thread.join(PART_TIMEOUT_S)

    def _run(self) -> None:
        data = None
        while data != END:
            data = self._frames.get()
            try:
                broadcast(self._ranks.data, data)
            except RuntimeError as error:
                log.warning("rank 0 cannot reach the other ranks: %s", one_line(error))
                return


class RelayedLink:
    """The link of a rank other than 0: receives the frames that rank 0 received."""

    reports: Final = False
    memory: Final = None
    unread: Final = False
    no_checkpoint: Final = "only rank 0 knows all of the run; ask for its state there"

    def __init__(self, ranks: Ranks, decoder: FrameDecoder) -> None:
        self.recorded_reports: list[SeedReport] = []
        self._ranks = ranks
        self._decoder = decoder
        self._thread: threading.Thread | None = None
        self.status = GrowthStatus(GrowthState.GROWING)

    def open(self, deliver: Deliver, on_decision: OnDecision) -> None:
        """Wait until rank 0 has started the run, then receive its frames.

        Raises:
            LeaderFailed: rank 0 could not start the run.
        """
        if why := self._ranks.share(None):
            raise LeaderFailed(why.decode())
        self._thread = threading.Thread(
            target=self._receive, args=(deliver, on_decision), name="esper-relay", daemon=True
        )
        self._thread.start()

    def poll(self) -> None:
        """Do nothing: only rank 0 reports loadable kernels."""

    def can_report(self) -> bool:
        """Return False: only rank 0 reports."""
        return False

    def report(self, report: SeedReport) -> None:
        """Raise AssertionError: only rank 0 reports."""
        raise AssertionError(f"report {report.seq} on rank {self._ranks.rank}")

    def wait_to_report(self, deadline: float) -> bool:
        """Return False: only rank 0 reports."""
        return False

    def leave_ranks(self) -> None:
        """Wait for the end of rank 0's stream; rank 0 ends the run at the same step."""
        if self._thread is not None:
            self._thread.join(PART_TIMEOUT_S)

    def close(self, *, leave_open: bool = False) -> None:
        """Do nothing: this rank has no broker connection."""

    def _receive(self, deliver: Deliver, on_decision: OnDecision) -> None:
        reader = FrameReader()
        while True:
            try:
                data = broadcast(self._ranks.data, None)
            except RuntimeError as error:
                reason = f"nothing more arrives from rank 0: {one_line(error)}"
                self.status = GrowthStatus(GrowthState.FAILED, reason)
                log.warning(reason)
                return
            if data == END:
                return
            for frame in reader.feed(data):
                self._decoder.on_frame(frame, deliver, on_decision)
