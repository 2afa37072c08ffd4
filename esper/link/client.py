"""The trainer's end of the link: start the process, send and receive frames without waiting."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from select import select
from socket import socket, socketpair
from time import monotonic
from typing import Final

from esper.errors import EsperError
from esper.link.config import LinkConfig
from esper.link.frames import CHUNK_BYTES, Frame, FrameReader, Kind, receive

START_TIMEOUT_S: Final = 30.0
ROOT: Final = Path(__file__).parents[2]


class LinkRefused(EsperError, RuntimeError):
    """The link process could not start; `kind` is the name of the error that it met."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class LinkClient:
    """A link process that is running.

    `send`, `flush` and `next_message` are called by the training thread and never wait. A thread
    reads the data channel and passes each frame to a callback.
    """

    def __init__(self, config: LinkConfig, deliver: Callable[[Frame], None]) -> None:
        """Start the process and wait until it is connected.

        `deliver` gets each `DECISION`, `KERNELS_PREPARED` and `KERNELS_FAILED` frame, on the
        reading thread.

        Raises:
            LinkRefused: the process cannot reach the broker, the store or the key.
        """
        self._control_channel, control_channel = socketpair()
        self._data_channel, data_channel = socketpair()
        self._process = _start_process(control_channel, data_channel)
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._received: deque[Frame] = deque()
        self._deliver = deliver
        self.lost = False
        self._thread = threading.Thread(
            target=self._read_data_channel, name="esper-data-channel", daemon=True
        )
        self._thread.start()
        try:
            self._control_channel.sendall(Frame(Kind.CONFIG, {}, config.to_socket()).packed())
            self._received += self._await_opened()
        except BaseException:
            self._end()
            raise
        self._control_channel.setblocking(False)

    def send(self, frame: Frame) -> None:
        """Send a frame; bytes that the socket does not take now are sent by the next call."""
        self._unsent += frame.packed()
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now of the frames that it did not take before."""
        while self._unsent:
            try:
                del self._unsent[: self._control_channel.send(self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                self.lost = True
                self._unsent.clear()

    def next_message(self) -> Frame | None:
        """Return the next control frame; None if none has been received completely."""
        while not self._received:
            try:
                data = self._control_channel.recv(CHUNK_BYTES)
            except BlockingIOError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                self.lost = True
                return None
            self._received += self._reader.feed(data)
        return self._received.popleft()

    def close(self, timeout_s: float, *, leave_open: bool = False) -> list[Frame]:
        """Close the run, or leave it open; return the last control frames.

        The process is killed after `timeout_s` seconds.
        """
        self.send(Frame(Kind.LEAVE_OPEN if leave_open else Kind.CLOSE))
        deadline = monotonic() + timeout_s
        messages: list[Frame] = []
        while not self.lost and (left_s := deadline - monotonic()) > 0:
            self.flush()
            while (message := self.next_message()) is not None:
                messages.append(message)
            if not self.lost:
                select([self._control_channel], [], [], left_s)
        self._end()
        return messages

    def _await_opened(self) -> list[Frame]:
        """Wait for the `OPENED` frame; return the other frames received up to then."""
        self._control_channel.settimeout(START_TIMEOUT_S)
        early: list[Frame] = []
        while True:
            try:
                frames = receive(self._control_channel, self._reader)
            except TimeoutError:
                raise LinkRefused("", f"no answer within {START_TIMEOUT_S:.0f} s") from None
            if frames is None:
                raise LinkRefused(
                    "", "the link process exited at its start; its error is printed above"
                )
            early += [frame for frame in frames if frame.kind not in (Kind.OPENED, Kind.REFUSED)]
            for frame in frames:
                if frame.kind is Kind.OPENED:
                    return early
                if frame.kind is Kind.REFUSED:
                    raise LinkRefused(frame.head["type"], frame.head["reason"])

    def _read_data_channel(self) -> None:
        reader = FrameReader()
        while (frames := receive(self._data_channel, reader)) is not None:
            for frame in frames:
                self._deliver(frame)

    def _end(self) -> None:
        self.lost = True
        self._control_channel.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # The process held the other end of the data channel, so its reader is at the end of it.
        self._thread.join()
        self._data_channel.close()


def _start_process(control_channel: socket, data_channel: socket) -> "subprocess.Popen[bytes]":
    """Start the process with its ends of both sockets; close them in this process."""
    ends = (control_channel.fileno(), data_channel.fileno())
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        # Not multiprocessing, which would import the user's script a second time.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "esper.link.sidecar", *map(str, (*ends, os.getpid()))],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    finally:
        control_channel.close()
        data_channel.close()
