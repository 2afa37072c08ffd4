"""Ctrl-C and SIGTERM: both end a command so that what it holds is closed."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Check = Callable[[], None]


@contextmanager
def interruptible() -> Iterator[Check]:
    """Let SIGTERM end the block as Ctrl-C does, by KeyboardInterrupt.

    Yields a check for work that goes on for long to make now and then. It raises what the signal
    raised, where that was lost: Python drops what is raised in a finalizer or a callback.
    """
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
