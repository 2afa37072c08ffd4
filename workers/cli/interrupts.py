"""End a command cleanly on Ctrl-C and SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Check = Callable[[], None]


@contextmanager
def interruptible() -> Iterator[Check]:
    """Raise KeyboardInterrupt in the block on SIGTERM as on Ctrl-C.

    Yields a check for long-running work to call regularly: it raises again if the exception was
    lost, because Python drops exceptions raised in a finalizer or a callback.
    """
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted:
            raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
