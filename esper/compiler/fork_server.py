"""A process that has imported torch and forks the others: an import takes seconds, a fork none.

The server is a `SealedProcess`, so its forks inherit no environment, main module, open files or
threads of the worker. They are children of the server, which reports their exit codes.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import forkserver, popen_forkserver, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext
from threading import Lock
from typing import Any, Final, NoReturn, Self

from esper.compiler.limits import end_with_parent_process
from esper.compiler.spawn import SealedProcess, close_all, pickled

FORK_TIMEOUT_S: Final = 60.0
"""A server that has not forked after this time, imports included, has failed."""

JOB_MODULES: Final = (
    "torch",
    "esper.compiler.build",
    "esper.compiler.results",
    "esper.topics.codec",
)
"""What compiling and validating import."""

MAX_DESCRIPTORS: Final = 64
ATTEMPTS: Final = 2
"""A server that has ended is started again, once for each fork."""


log = logging.getLogger(__name__)


SERVER_LOST: Final = 1000
"""The exit code of forks whose server ended before it reported theirs; they end with it."""


class ForkServer:
    """Starts one process that imports modules, and forks it; any thread may call `fork`.

    As a context manager, it ends the process on exit.
    """

    def __init__(self, preload: Iterable[str] = JOB_MODULES) -> None:
        """Start the server without waiting; it imports the modules named in `preload`."""
        self._preload = tuple(preload)
        self._lock = Lock()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def context(self) -> SpawnContext:
        """The multiprocessing context of processes that this server forks."""
        context = SpawnContext()
        context.Process = partial(ForkedProcess, self)  # type: ignore[assignment,misc]
        return context

    def fork(self, descriptors: Iterable[int]) -> tuple[int, int, int]:
        """Fork the server; the child has duplicates of the descriptors.

        Returns:
            The child's pid; a descriptor from which its exit code can be read later; one to write
            its orders to, which the child also watches to end with this process.

        Raises:
            OSError: the server ended or did not answer, and so did the next one.
        """
        with self._lock:
            for _ in range(ATTEMPTS):
                with suppress(BrokenPipeError, ConnectionResetError, EOFError):
                    return self._fork(list(descriptors))
                self._end()
                self._start()
        raise ChildProcessError("the process that forks others does not start")

    def close(self) -> None:
        """End the server and what it forked."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._requests, served = socket.socketpair()
        arguments = (served, self._preload)
        self._process = SealedProcess(target=serve, args=arguments, daemon=True)
        with served:
            self._process.start()

    def _end(self) -> None:
        self._requests.close()
        self._process.kill()
        self._process.join()

    def _fork(self, descriptors: list[int]) -> tuple[int, int, int]:
        status, reported = os.pipe()
        read, orders = os.pipe()
        try:
            socket.send_fds(self._requests, [b"\0"], [read, reported, *descriptors])
            os.close(reported)
            reported = -1
            if not wait([status], FORK_TIMEOUT_S):
                raise TimeoutError("the process that forks others does not answer")
            return forkserver.read_signed(status), status, orders
        except BaseException:
            close_all(status, orders)
            raise
        finally:
            os.close(read)
            if reported >= 0:
                os.close(reported)


class ForkedProcess(SealedProcess):
    """A process that a `ForkServer` forks; it starts like a spawned one, without the imports."""

    def __init__(self, server: ForkServer, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._server: ForkServer | None = server

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that the child receives."""
        return {**self.__dict__, "_server": None}

    def _Popen(self, process_obj: "ForkedProcess") -> Any:  # type: ignore[override]  # noqa: N802
        return _Popen(process_obj)


class _Popen(popen_forkserver.Popen):
    _fds: list[int]

    def _launch(self, process_obj: ForkedProcess) -> None:
        orders = pickled(self, process_obj)
        assert process_obj._server is not None
        self.pid, self.sentinel, write = process_obj._server.fork(self._fds)
        # Open until this object is finalised, because the child watches it.
        kept = os.dup(write)
        self.finalizer = util.Finalize(self, close_all, (kept, self.sentinel))
        with os.fdopen(write, "wb") as pipe:
            pipe.write(orders)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            try:
                self.returncode = forkserver.read_signed(self.sentinel)
            except EOFError:
                self.returncode = SERVER_LOST
        return self.returncode


def serve(requests: socket.socket, preload: Iterable[str]) -> None:
    """Fork this process for each request, and report exit codes, until `requests` is closed."""
    # Only the parent ends this process; a signal to the whole group must not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in preload:
        import_module(name)
    # What is here now is never collected, so that the collector touches no page shared with forks.
    gc.collect()
    gc.freeze()
    _Server(requests).run()


class _Server:
    """The loop of the server; `_reported` has the descriptor for each child's exit code."""

    def __init__(self, requests: socket.socket) -> None:
        self._pid = os.getpid()
        self._requests = requests
        self._reported: dict[int, int] = {}
        self._ended, self._wakeup = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(self._wakeup, False)
        # The signal itself does nothing; it wakes `select` by its descriptor.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup)

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._ended in ready:
                    os.read(self._ended, 1 << 16)
                    self._report_ended()
                if self._requests in ready:
                    _, descriptors, _, _ = socket.recv_fds(self._requests, 1, MAX_DESCRIPTORS)
                    if not descriptors:
                        return
                    self._fork(selector, *descriptors)

    def _fork(
        self, selector: selectors.BaseSelector, read: int, reported: int, *inherited: int
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            selector.close()
            others = (self._ended, self._wakeup, reported, *self._reported.values())
            self._become_child(read, inherited, others)
        _report(reported, pid)
        self._reported[pid] = reported
        close_all(read, *inherited)

    def _become_child(self, read: int, inherited: Iterable[int], others: Iterable[int]) -> NoReturn:
        code = 1
        try:
            # Without the server, nothing would know that this process has ended, or how.
            end_with_parent_process(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._requests.close()
            close_all(*others)
            # Where multiprocessing looks for the descriptors in its pickles.
            vars(forkserver)["_forkserver"]._inherited_fds = list(inherited)
            # The copy reads the end of the file when the parent ends.
            code = vars(spawn)["_main"](read, os.dup(read))
        except Exception:
            log.exception("a fork did not start")
        finally:
            # Even after SystemExit: a fork must not return into the loop of the server.
            sys.stderr.flush()
            os._exit(code)

    def _report_ended(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                reported = self._reported.pop(pid)
                _report(reported, os.waitstatus_to_exitcode(status))
                os.close(reported)


def _report(descriptor: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the parent has ended
        forkserver.write_signed(descriptor, number)
