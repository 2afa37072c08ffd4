"""Which records of the decision topic are decisions of the bandit worker for this run."""

from typing import Final, NamedTuple

from esper.errors import EsperError
from esper.signing import BadSignature, Purpose, TrustedKeys
from esper.topics.bus import Record
from esper.topics.catalog import SEED_METRICS
from esper.topics.codec import Undecodable, decode, sha256_of, signature_of
from esper.topics.models import AdaptationDecision, Cause, SeedReport

MAX_STEPS_AHEAD: Final = 1_000
"""Most training steps between a report and the step at which its decision may ask to be applied."""


class DecisionRefused(EsperError):
    """A record is no decision for this run; the message says why, and names the record."""


class DecisionLost(DecisionRefused):
    """A decision does not follow the last one: one in between was lost, so none can follow."""


class _SentReport(NamedTuple):
    """The digest of a report's bytes, and the step at which it was made."""

    sha256: str
    step: int


class DecisionCheck:
    """Accepts the decisions of one run, each once and in order.

    A decision is accepted if a trusted key signed it, if it answers a report that this run has
    sent, and if it follows the run's last decision in their hash chain. One thread may call
    `note_report` while another one calls `accept`.
    """

    def __init__(self, run_id: str, keys: TrustedKeys) -> None:
        self._run_id, self._keys = run_id, keys
        self._reports: dict[int, _SentReport] = {}
        self._oldest_seq = 0
        self._accepted: set[str] = set()
        self._last_sha256: str | None = None

    def note_report(self, report: SeedReport, value: bytes) -> None:
        """Note a report that the run sends or has sent; `value` is its record's value."""
        self._reports[report.seq] = _SentReport(sha256_of(value), report.step)

    def accept(self, record: Record) -> AdaptationDecision | None:
        """Return the decision in a record; None if it was accepted before.

        Raises:
            DecisionRefused: the record is no decision for this run.
            DecisionLost: the run's decisions have a gap before this one.
        """
        value = record.value or b""
        try:
            self._keys.verify(Purpose.DECISION, value, signature_of(record.headers))
            decision = decode(AdaptationDecision, value)
        except (BadSignature, Undecodable) as error:
            raise DecisionRefused(f"{record.place}: {error}") from error
        sha256 = sha256_of(value)
        if sha256 in self._accepted:
            return None
        if (fault := self._fault_of(decision)) is not None:
            raise DecisionRefused(f"{record.place}: {fault}")
        if decision.previous_sha256 != self._last_sha256:
            raise DecisionLost(
                f"{record.place}: decision {decision.seq}.{decision.index} does not follow the "
                "last one of this run: a decision in between was lost"
            )
        self._accepted.add(sha256)
        self._last_sha256 = sha256
        self._forget_reports_before(decision.seq)
        return decision

    def _forget_reports_before(self, seq: int) -> None:
        """Drop the reports that no later decision of the chain can answer."""
        for answered in range(self._oldest_seq, seq):
            self._reports.pop(answered, None)
        self._oldest_seq = max(self._oldest_seq, seq)

    def _fault_of(self, decision: AdaptationDecision) -> str | None:
        """Return why a signed decision cannot be one of this run; None if it can."""
        if decision.run_id != self._run_id:
            return f"the decision is of another run: {decision.run_id}"
        report = self._reports.get(decision.seq)
        if report is None or not _answers(decision.cause, decision.seq, report):
            return f"the decision answers report {decision.seq}, which this run has not sent"
        if decision.decision_id != decision.id_of(decision.run_id, decision.seq, decision.index):
            return f"the decision's id {decision.decision_id} is not that of its report and index"
        if not report.step < decision.apply_at_step <= report.step + MAX_STEPS_AHEAD:
            return (
                f"the decision asks to be applied at step {decision.apply_at_step}, which is not "
                f"within {MAX_STEPS_AHEAD} steps after its report at step {report.step}"
            )
        return None


def _answers(cause: Cause, seq: int, report: _SentReport) -> bool:
    named = (cause.topic, cause.seq, cause.sha256)
    return named == (SEED_METRICS.name, seq, report.sha256)
