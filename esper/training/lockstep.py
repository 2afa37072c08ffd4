"""Lockstep: training waits for the answer to each report, so that a run repeats bit for bit.

Kernels arrive before the first report; decisions and the kernels that they plant arrive before the
step after their report.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from esper.errors import EsperError
from esper.training.auditions import Auditions, NoAuditions
from esper.training.decision_queue import DecisionQueue
from esper.training.grow_config import LockstepTimeouts
from esper.training.link import LATE_AFTER_S, RunLink

log = logging.getLogger("esper")

POLL_S: Final = 0.0005
MAX_POLL_S: Final = 0.02
"""Auditions take minutes: the longer a wait, the more rarely it is checked."""


class LockstepBroken(EsperError, RuntimeError):
    """Kernels or an answer did not arrive in time; the message names them and the remedy."""


class LockstepRefused(EsperError, ValueError):
    """A training that cannot run in lockstep; the message says why."""


class Awaited(NamedTuple):
    """What a wait is for, and what to check if it does not arrive."""

    what: str
    remedy: str


class Lockstep:
    """The waits of one run, on the training thread; after one timed out, all raise its error."""

    def __init__(
        self, run_id: str, link: RunLink, decision_queue: DecisionQueue, timeouts: LockstepTimeouts
    ) -> None:
        self._run_id = run_id
        self._link = link
        self._decision_queue = decision_queue
        self._timeouts = timeouts
        self._broken: LockstepBroken | None = None

    @property
    def broken(self) -> bool:
        """Whether a wait timed out: the run can only be closed."""
        return self._broken is not None

    def check(self) -> None:
        """Raise LockstepBroken if the run is broken."""
        if self._broken is not None:
            raise self._broken

    def await_kernels(self) -> None:
        """Wait until every kernel that the run starts with is loadable or rejected.

        Raises:
            LockstepBroken: kernels are missing at the time limit; the message names the first.
        """
        self._wait(self._kernels_missing, self._timeouts.kernels_s)
        self._decision_queue.empty_mailbox(0)
        if self._decision_queue.run_history.kernels:
            return
        of = self._link.missing.of if self._link.missing else 0
        why = f"none of {of} can be loaded" if of else "no blueprint on its topic fits a site"
        log.warning("lockstep run %s begins without kernels: %s", self._run_id, why)

    def await_answer(self, seq: int, step: int) -> None:
        """Wait until report `seq`, made at `step`, is answered and the answer's kernels are built.

        Raises:
            LockstepBroken: the answer or a kernel is missing at the time limit.
        """
        self._wait(lambda: self._answer_missing(seq, step), self._timeouts.answer_s)

    def await_auditions(self, auditions: Auditions | NoAuditions, step: int) -> None:
        """Wait for the result of every audition requested so far, so that results are repeatable.

        Raises:
            LockstepBroken: a result is missing at the time limit.
        """
        if auditions.outstanding:
            self._wait(lambda: self._results_missing(auditions, step), self._timeouts.auditions_s)

    def _results_missing(self, auditions: Auditions | NoAuditions, step: int) -> Awaited | None:
        self._link.poll()
        self._decision_queue.empty_mailbox(step)
        if not auditions.outstanding:
            return None
        return Awaited(f"{auditions.outstanding} auditions", "are audition workers running?")

    def _kernels_missing(self) -> Awaited | None:
        self._link.poll()
        missing = self._link.missing
        if missing is None or not missing.kernels:
            return None
        first = ", ".join(missing.first)
        dots = ", .." if missing.kernels > len(missing.first) else ""
        return Awaited(
            f"{missing.kernels} of {missing.of} kernels ({first}{dots})",
            "are compile workers running, and of this version?",
        )

    def _answer_missing(self, seq: int, step: int) -> Awaited | None:
        self._link.poll()
        self._decision_queue.empty_mailbox(step)
        # Two sockets: the answer may arrive before the confirmation of its report.
        if not self._link.confirmed:
            return Awaited(f"the broker to confirm report {seq}", "is the broker running?")
        if self._decision_queue.answered_seq < seq:
            return Awaited(
                f"the answer to report {seq}", "are bandit workers running, and of this version?"
            )
        for waiting in self._decision_queue.queue:
            if waiting.awaits_kernels:
                name = waiting.arrived.decision.decision_id[:12]
                return Awaited(f"the kernels of decision {name}", "does the kernel store answer?")
        return None

    def _wait(self, missing: Callable[[], Awaited | None], limit_s: float) -> None:
        start = time.monotonic()
        warned = False
        while (awaited := missing()) is not None:
            waited_s = time.monotonic() - start
            if self._link.failure is not None:
                self._break(f"{self._link.failure}; start the run again")
            if waited_s > limit_s:
                self._break(f"waited {limit_s:g} s for {awaited.what}; {awaited.remedy}")
            if not warned and waited_s > LATE_AFTER_S:
                warned = True
                log.warning("training waits for %s", awaited.what)
            time.sleep(min(POLL_S + 0.02 * waited_s, MAX_POLL_S))
        if warned:
            log.warning("training continues")

    def _break(self, why: str) -> None:
        self._broken = LockstepBroken(f"lockstep run {self._run_id} is broken: {why}")
        raise self._broken
