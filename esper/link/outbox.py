"""Frames to the trainer, sent by a thread of their own."""

import threading
from queue import SimpleQueue
from socket import socket
from typing import Final

from esper.link.frames import Frame

CLOSE_TIMEOUT_S: Final = 2.0


class Outbox:
    """Sends frames in order on its own thread, so that senders never wait."""

    def __init__(self, link: socket) -> None:
        self._link = link
        self._frames: SimpleQueue[Frame | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Queue a frame."""
        self._frames.put(frame)

    def close(self) -> None:
        """Return when every queued frame is sent, or after `CLOSE_TIMEOUT_S`."""
        self._frames.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                self._link.sendall(frame.packed())
            except OSError:
                return
