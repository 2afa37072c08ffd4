"""Beginning on a kernel before its request has gone round by its topic.

The worker that plans a kernel is often the one that will read the request for it, some
milliseconds later. Nothing depends on a head start but how soon: what was built is announced
when the request has come, and where it goes elsewhere what was begun is dropped.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from esper.compiler.outcome import Outcome
from topics.models import KernelRequested

MOST_BEGUN: Final = 64
"""Beyond these, the oldest are dropped: the requests for them have gone to another worker."""

Build = Callable[[KernelRequested], Coroutine[Any, Any, Outcome]]


class HeadStart:
    """Kernels begun ahead of their requests, by kernel id."""

    def __init__(self, build: Build, worthwhile: Callable[[KernelRequested], bool]) -> None:
        """Begin only what is `worthwhile`: what will come here, and delays no other kernel."""
        self._build = build
        self._worthwhile = worthwhile
        self._begun: dict[str, tuple[KernelRequested, asyncio.Task[Outcome]]] = {}

    def begin(self, request: KernelRequested) -> None:
        """Begin to build what is about to be requested; returns at once."""
        if request.kernel_id in self._begun or not self._worthwhile(request):
            return
        if len(self._begun) == MOST_BEGUN:
            self._begun.pop(next(iter(self._begun)))[1].cancel()
        task = asyncio.create_task(self._build(request))
        self._begun[request.kernel_id] = request, task

    async def outcome(self, request: KernelRequested) -> Outcome:
        """Return what was begun for exactly this request, or build it now."""
        begun = self._begun.pop(request.kernel_id, None)
        if begun is not None and begun[0] == request:
            return await begun[1]
        return await self._build(request)
