"""The trainer's end of its link: starts the process, and passes frames without ever waiting."""

import os
import subprocess
import sys
import threading
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

    `send` and `messages` belong to the training thread and never wait; mail is handed to a callback
    on a thread that sleeps until there is some.
    """

    def __init__(self, config: LinkConfig, deliver: Callable[[Frame], None]) -> None:
        """Start the process and wait until it is connected.

        `deliver` gets each `DECISION`, `KERNELS_PREPARED` and `KERNELS_FAILED`, on the mail thread.

        Raises:
            LinkRefused: it cannot be reached what the order names.
        """
        self._control_channel, control_channel = socketpair()
        self._data_channel, data_channel = socketpair()
        self._process = _started(control_channel, data_channel)
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._deliver = deliver
        self.lost = False
        self._thread = threading.Thread(target=self._read_mail, name="esper-mail", daemon=True)
        self._thread.start()
        try:
            self._control_channel.sendall(
                Frame(Kind.ORDER, {}, config.model_dump_json().encode()).packed()
            )
            self._early = self._await_opened()
        except BaseException:
            self._end()
            raise
        self._control_channel.setblocking(False)

    def send(self, frame: Frame) -> None:
        """Hand a frame over; what the socket does not take at once goes with the next call."""
        self._unsent += frame.packed()
        self._flush()

    def messages(self) -> list[Frame]:
        """Return the messages that have come: confirmations, kernels on offer, refusals."""
        self._flush()
        messages, self._early = self._early, []
        while True:
            try:
                data = self._control_channel.recv(CHUNK_BYTES)
            except BlockingIOError:
                return messages
            except ConnectionError:
                data = b""
            if not data:
                self.lost = True
                return messages
            messages += self._reader.feed(data)

    def close(self, timeout_s: float, *, leave_open: bool = False) -> list[Frame]:
        """Have the run closed, or left open; return the last messages.

        After `timeout_s` the process is killed.
        """
        self.send(Frame(Kind.LEAVE if leave_open else Kind.CLOSE))
        deadline = monotonic() + timeout_s
        messages: list[Frame] = []
        while not self.lost and (left_s := deadline - monotonic()) > 0:
            messages += self.messages()
            if not self.lost:
                select([self._control_channel], [], [], left_s)
        self._end()
        return messages

    def _flush(self) -> None:
        while self._unsent:
            try:
                del self._unsent[: self._control_channel.send(self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                self.lost = True
                self._unsent.clear()

    def _await_opened(self) -> list[Frame]:
        """Return the messages that came before and with the word that the link is open."""
        self._control_channel.settimeout(START_TIMEOUT_S)
        early: list[Frame] = []
        while True:
            try:
                frames = receive(self._control_channel, self._reader)
            except TimeoutError:
                raise LinkRefused("", f"no answer within {START_TIMEOUT_S:.0f} s") from None
            if frames is None:
                raise LinkRefused("", "the link process ended at its start; it said why above")
            early += [frame for frame in frames if frame.kind not in (Kind.OPENED, Kind.REFUSED)]
            for frame in frames:
                if frame.kind is Kind.OPENED:
                    return early
                if frame.kind is Kind.REFUSED:
                    raise LinkRefused(frame.head["type"], frame.head["reason"])

    def _read_mail(self) -> None:
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
        # The process held the other end, so the mail thread has come to the end of its mail.
        self._thread.join()
        self._data_channel.close()


def _started(control_channel: socket, data_channel: socket) -> "subprocess.Popen[bytes]":
    """Start the process with its ends of both sockets, which are closed here."""
    ends = (control_channel.fileno(), data_channel.fileno())
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        # Not by multiprocessing, which would import the user's script a second time.
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
