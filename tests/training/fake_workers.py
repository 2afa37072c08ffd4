"""Bandit and compile workers played by a test, on a real broker."""

import time
from functools import partial
from typing import Any

from esper.audit import cause_of
from esper.settings import Settings
from esper.signing import Purpose
from esper.store import open_store
from esper.topics.bus import Bus, Record, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, SEED_METRICS, TRAINING_RUN, Topic
from esper.topics.codec import decode, digest
from esper.topics.models import AdaptationDecision, RunStatus, SeedReport, TrainingRun
from tests.keys import KEY
from tests.training.grow_fixture import decision

WAIT_S = 60.0
SIGN = partial(KEY.sign, Purpose.DECISION)


class Outside:
    """The other side of the broker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bus = Bus.connect(settings.kafka_bootstrap_servers, source="/esper/test")
        self.store = open_store(settings.kernel_store_spec)
        self.decided: dict[str, list[AdaptationDecision]] = {}
        """The decisions of each run, as published."""

    def publish(self, topic: Topic, event: Any) -> None:
        self.bus.publish(topic, event).result(WAIT_S)

    def decide(self, plan: AdaptationDecision, report: Record | None = None) -> AdaptationDecision:
        """Publish a plan as the bandit worker does: in answer to a report, linked and signed.

        It answers the run's last report if none is given. Returns the decision as published.
        """
        decided = self.planned(plan, report)
        self.decided.setdefault(plan.run_id, []).append(decided)
        self.send(decided)
        return decided

    def planned(self, plan: AdaptationDecision, report: Record | None = None) -> AdaptationDecision:
        """Return the decision that `decide` would publish."""
        answered = report or self.last_report(plan.run_id)
        event = decode(SeedReport, answered.value)
        earlier = self.decided.get(plan.run_id, [])
        index = sum(one.seq == event.seq for one in earlier)
        return plan.model_copy(
            update={
                "decision_id": plan.id_of(plan.run_id, event.seq, index),
                "seq": event.seq,
                "index": index,
                "cause": cause_of(answered, event),
                "apply_at_step": event.step + plan.apply_at_step,
                "previous_sha256": digest(earlier[-1]) if earlier else None,
            }
        )

    def send(self, decided: AdaptationDecision) -> None:
        """Publish a decision as it is, with a valid signature."""
        self.bus.publish(ADAPTATION_DECISION, decided, sign=SIGN)

    def last_report(self, run_id: str) -> Record:
        servers, key = self.settings.kafka_bootstrap_servers, run_id.encode()
        deadline = time.monotonic() + WAIT_S
        while not (records := read_topic(servers, SEED_METRICS.name, key=key)):
            assert time.monotonic() < deadline, f"run {run_id} does not report"
        return records[-1]

    def reports(self, run_id: str) -> list[SeedReport]:
        """The reports of a run, each once."""
        return list(
            {report.seq: report for report in self._all(SEED_METRICS, SeedReport, run_id)}.values()
        )

    def repeats(self, run_id: str) -> int:
        """How many records of reports are there beyond one for each report."""
        return len(self._all(SEED_METRICS, SeedReport, run_id)) - len(self.reports(run_id))

    def status(self, run_id: str) -> RunStatus:
        return self._all(TRAINING_RUN, TrainingRun, run_id)[-1].status

    def seal_closing_runs(self) -> None:
        """Answer every closing report as a bandit worker does."""

        def answer(record: Record) -> None:
            report = decode(SeedReport, record.value)
            if report.closing:
                self.decide(decision(run_id=report.run_id, strategy=None), record)

        self.bus.consume(SEED_METRICS.name, answer)

    def _all(self, topic: Topic, model: Any, run_id: str) -> list[Any]:
        records = read_topic(self.settings.kafka_bootstrap_servers, topic.name, key=run_id.encode())
        return [decode(model, record.value) for record in records]
