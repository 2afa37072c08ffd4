"""Bandit and compile workers played by a test, on a real broker."""

from typing import Any

from esper.settings import Settings
from esper.store import open_store
from esper.topics.bus import Bus, Record, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, SEED_METRICS, TRAINING_RUN, Topic
from esper.topics.codec import decode
from esper.topics.models import RunStatus, SeedReport, TrainingRun
from tests.training.grow_fixture import decision

WAIT_S = 20.0


class Outside:
    """The other side of the broker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bus = Bus.connect(settings.kafka_bootstrap_servers, source="/esper/test")
        self.store = open_store(settings.kernel_store_spec)

    def publish(self, topic: Topic, event: Any) -> None:
        self.bus.publish(topic, event).result(WAIT_S)

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
                seal = decision(
                    name=f"seal {report.run_id}",
                    run_id=report.run_id,
                    strategy=None,
                    seq=report.seq,
                )
                self.bus.publish(ADAPTATION_DECISION, seal)

        self.bus.consume(SEED_METRICS.name, answer)

    def _all(self, topic: Topic, model: Any, run_id: str) -> list[Any]:
        records = read_topic(self.settings.kafka_bootstrap_servers, topic.name, key=run_id.encode())
        return [decode(model, record.value) for record in records]
