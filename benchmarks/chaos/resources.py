"""Memory, descriptors and connections of the stack's processes while faults hit them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from statistics import median
from typing import Final, NamedTuple

import psutil

from benchmarks.result import Figure, Goal, ratio, rounded

EVERY_S: Final = 5.0
MIB: Final = 2**20
YOUNG_S: Final = 20.0
"""Processes that started less than this ago are not counted: they still load."""

FLAT: Final = 1.1
"""Largest ratio of the last third of a run to its first third."""


class Sample(NamedTuple):
    """What the processes of one kind use, in the mean."""

    at_s: float
    memory_mib: float
    descriptors: float


class ResourceSampler:
    """Samples the processes of each kind until `stop`."""

    def __init__(
        self, pids: Callable[[], Iterable[tuple[str, int]]], now_s: Callable[[], float]
    ) -> None:
        """`pids` returns the kind and pid of each process that runs now."""
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self._pids = pids
        self._now_s = now_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._sample_forever, name="chaos-resources", daemon=True
        )

    def start(self) -> None:
        """Start to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stopping.set()
        self._thread.join()

    def figures(self) -> Iterator[Figure]:
        """Yield the growth of memory and descriptors, for each kind with enough samples."""
        for kind, samples in sorted(self.samples.items()):
            third = len(samples) // 3
            if not third:
                continue
            for index, quantity in enumerate(("memory", "descriptors"), start=1):
                early, late = (
                    [median(sample[index] for sample in part)]
                    for part in (samples[:third], samples[-third:])
                )
                title = f"{quantity} of a {kind} process, last third of the run ÷ first third"
                goal = Goal(sense="at most", limit=FLAT)
                yield ratio(
                    f"{quantity}-{kind}", title, ("late", late), ("early", early), goal=goal
                )

    def curves(self) -> dict[str, tuple[float, ...]]:
        """Return times and memory in MiB, by kind."""
        return {
            f"{name}-{kind}": tuple(rounded(sample[index]) for sample in samples)
            for kind, samples in sorted(self.samples.items())
            for index, name in enumerate(("at", "memory"))
        }

    def _sample_forever(self) -> None:
        while not self._stopping.wait(EVERY_S):
            found: dict[str, list[tuple[float, int]]] = defaultdict(list)
            for kind, pid in self._pids():
                # A fault may just have ended it.
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if time.time() - process.create_time() > YOUNG_S:
                        found[kind].append(_usage(process))
            for kind, usages in found.items():
                memory, descriptors = (
                    sum(values) / len(usages) for values in zip(*usages, strict=True)
                )
                self.samples[kind].append(Sample(self._now_s(), memory, descriptors))


def _usage(process: psutil.Process) -> tuple[float, int]:
    """Return a process's resident memory in MiB and its number of descriptors."""
    with process.oneshot():
        return process.memory_info().rss / MIB, process.num_fds()
