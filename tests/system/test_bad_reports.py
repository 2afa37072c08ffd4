"""Invalid reports on the real topic: the worker keeps running and loses no report."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import orjson
import pytest
from confluent_kafka import Producer

from esper.audit import audit, fetch_history
from esper.orchestrator import FoldState
from esper.topics.bus import Bus, Record, partition_of, read_topic
from esper.topics.catalog import ADAPTATION_DECISION, DAY_MS, FOLDED_RUNS, SEED_METRICS
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import (
    AdaptationDecision,
    LoadableKernel,
    PolicySpec,
    RunConfig,
    SeedReport,
    SeedState,
    SeedStatus,
)
from esper.workers.bandit import EndedRun, RunEnd
from esper.workers.local import process, read_state
from tests.system.conftest import Running
from tests.system.test_metrics import labelled
from tests.waiting import wait_until


@dataclass(frozen=True)
class Scene:
    """The real topics, and the results of the worker."""

    running: Running
    bus: Bus

    def send(self, *reports: SeedReport) -> None:
        """Publish reports in order."""
        for report in reports:
            self.send_bytes(report.run_id, encode(report))

    def send_bytes(self, run_id: str, value: bytes) -> None:
        self.bus.send(SEED_METRICS.name, run_id.encode(), value).result(timeout=60)

    def records(self, topic: str, run_id: str) -> list[Record]:
        return read_topic(self.running.settings.kafka_bootstrap_servers, topic, key=run_id.encode())

    def dead_letters(self, run_id: str) -> list[tuple[int, str]]:
        """Return offset and reason of a run's dead letters, without the repeats of a restart."""
        headers = [dict(record.headers) for record in self._dead_letter_records(run_id)]
        found = [(int(entry["dlq-offset"]), entry["dlq-reason"].decode()) for entry in headers]
        return list(dict.fromkeys(found))

    def _dead_letter_records(self, run_id: str) -> list[Record]:
        servers = self.running.settings.kafka_bootstrap_servers
        records = read_topic(servers, SEED_METRICS.dead_letters)
        return [record for record in records if record.key == run_id.encode()]

    def reasons(self, run_id: str, count: int) -> list[str]:
        """Wait for `count` dead letters of a run; return their reasons."""
        wait_until(lambda: len(self.dead_letters(run_id)) >= count, f"{count} dead letters")
        found = self.dead_letters(run_id)
        assert len(found) == count
        return [reason for _, reason in found]

    def stored(self, run_id: str) -> FoldState | EndedRun | None:
        """Return the entry of a run in the worker's table."""
        records = self.records(FOLDED_RUNS.changelog, run_id)
        value = records[-1].value if records else None
        if not value:
            return None
        if b'"ended"' in value:
            return EndedRun.model_validate_json(value)
        return FoldState.from_bytes(value)

    def folded_to(self, run_id: str, seq: int) -> FoldState:
        """Wait until report `seq` is folded; return the state."""

        def reached() -> FoldState | None:
            state = self.stored(run_id)
            return state if isinstance(state, FoldState) and state.last_seq == seq else None

        state: FoldState = wait_until(reached, f"report {seq} to be folded")
        return state

    def ended(self, run_id: str) -> EndedRun:
        """Wait until a run has ended; return its entry."""

        def found() -> EndedRun | None:
            stored = self.stored(run_id)
            return stored if isinstance(stored, EndedRun) else None

        ended: EndedRun = wait_until(found, "the run to end")
        return ended

    def decisions(self, run_id: str) -> list[AdaptationDecision]:
        records = self.records(ADAPTATION_DECISION.name, run_id)
        values = dict.fromkeys(record.value for record in records)
        return [decode(AdaptationDecision, value) for value in values]

    def counted(self, sample: str, label: str) -> float:
        """Return the worker's count under a label."""
        return labelled(self.running, "bandit", sample).get(label, 0.0)


@pytest.fixture
def scene(running: Running, bus: Bus) -> Iterator[Scene]:
    """Yield a scene; fail if the worker process ended during the test."""
    before = _worker(running)
    yield Scene(running, bus)
    assert _worker(running).pid == before.pid
    assert process.is_alive(before), "the worker ended"


@pytest.fixture
def run_id() -> str:
    return f"bad-{secrets.token_hex(4)}"


def _worker(running: Running) -> process.ProcessRecord:
    state = read_state(running.settings.home / "stack.json")
    assert state is not None
    return state.require_process("bandit")


def run_config(seed: int = 1) -> RunConfig:
    return RunConfig(
        seed=seed,
        slots={"conv": 2},
        policy=PolicySpec(),
        host_params=1_000,
        report_interval_steps=10,
    )


def kernel(name: str, build: str = "") -> LoadableKernel:
    return LoadableKernel(
        kernel_id=sha256_of(f"{name}/{build}".encode()),
        site="conv",
        blueprint_id=name,
        category=name,
        params=100,
    )


def report(run_id: str, seq: int, *, seed: int = 1, **fields: object) -> SeedReport:
    defaults = {
        "train_loss": 1.0,
        "probe_loss": 1.0,
        "run_config": run_config(seed) if seq == 0 else None,
    }
    return SeedReport(run_id=run_id, seq=seq, step=10 * seq, **(defaults | fields))


def neighbour_of(run_id: str) -> str:
    """Return the id of another run whose reports are in the same partition."""
    count = SEED_METRICS.partitions
    names = (f"neighbour-{secrets.token_hex(4)}" for _ in range(1000))
    return next(
        name
        for name in names
        if partition_of(name.encode(), count) == partition_of(run_id.encode(), count)
    )


def raw(run_id: str, seq: int, field: str, value: bytes) -> bytes:
    """Return an encoded report with a value that Esper's models would not write."""
    fields = orjson.loads(encode(report(run_id, seq, seeds=(_seed(),))))
    marked = {**fields, field: "HERE"}
    if field == "contribution":
        marked = {**fields, "seeds": [{**fields["seeds"][0], field: "HERE"}]}
    return orjson.dumps(marked).replace(b'"HERE"', value)


def _seed(name: str = "a", build: str = "", contribution: float | None = 0.1) -> SeedStatus:
    planted = kernel(name, build)
    return SeedStatus(
        site="conv",
        slot=0,
        state=SeedState.ACTIVE,
        kernel_id=planted.kernel_id,
        blueprint_id=name,
        alpha=1.0,
        contribution=contribution,
    )


# -- undecodable reports ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_loss", b"NaN"),
        ("probe_loss", b"Infinity"),
        ("contribution", b"-Infinity"),
        ("contribution", b"1e999"),
        ("step", b"9223372036854775808"),
        ("step", b"-1"),
        ("train_loss", b'"0.5"'),
    ],
)
def test_an_invalid_number_is_a_dead_letter_and_breaks_its_run(
    scene: Scene, run_id: str, field: str, value: bytes
) -> None:
    """The undecodable report counts as missing; later ones must not be folded."""
    before = scene.counted("esper_dead_letters_total", "undecodable")
    scene.send(report(run_id, 0))
    scene.send_bytes(run_id, raw(run_id, 1, field, value))
    scene.send(report(run_id, 2), report(run_id, 3))

    undecodable, gap, later = scene.reasons(run_id, 3)
    assert undecodable.startswith("SeedReport: ")
    assert field in undecodable or "JSON" in undecodable
    assert f"run {run_id}: report 1 is missing, next is 2" in gap
    assert later.startswith("the run is broken")
    assert scene.counted("esper_dead_letters_total", "undecodable") == before + 1
    assert scene.ended(run_id).last_seq == 0


@pytest.mark.parametrize("contribution", [1e300, -1e300, 1e-320])
def test_an_extreme_contribution_is_folded(scene: Scene, run_id: str, contribution: float) -> None:
    seeds = (_seed(contribution=contribution),)
    scene.send(report(run_id, 0, kernels=(kernel("a"),)))
    scene.send(*(report(run_id, seq, seeds=seeds) for seq in range(1, 12)))
    scene.send(report(run_id, 12, closing=True))

    assert scene.ended(run_id).last_seq == 12
    assert scene.dead_letters(run_id) == []
    assert _audited(scene, run_id)


# -- order --------------------------------------------------------------------------------------


def test_a_sequence_gap_breaks_its_run_and_no_other_run_of_the_partition(
    scene: Scene, run_id: str
) -> None:
    other = neighbour_of(run_id)
    broken = scene.counted("esper_runs_broken_total", "sequence-gap")
    scene.send(report(run_id, 0), report(other, 0), report(run_id, 1))
    scene.send(report(run_id, 3), report(other, 1), report(run_id, 4), report(other, 2))

    scene.folded_to(other, 2)
    gap, later = scene.reasons(run_id, 2)
    assert gap == (
        f"run {run_id}: report 2 is missing, next is 3; the topic does not have it "
        "before this record"
    )
    assert later == f"the run is broken: {gap}"
    ended = scene.ended(run_id)
    assert (ended.ended, ended.last_seq) == (RunEnd.BROKEN, 1)
    assert scene.dead_letters(other) == []
    assert scene.counted("esper_runs_broken_total", "sequence-gap") == broken + 1


def test_reports_out_of_order_break_their_run(scene: Scene, run_id: str) -> None:
    scene.send(report(run_id, 0), report(run_id, 2), report(run_id, 1))
    gap, late = scene.reasons(run_id, 2)
    assert "report 1 is missing, next is 2" in gap
    assert late.startswith("the run is broken")


def test_a_repeated_report_changes_nothing(scene: Scene, run_id: str) -> None:
    reports = [report(run_id, 0, kernels=(kernel("a"),)), *(report(run_id, n) for n in (1, 2, 3))]
    scene.send(*reports[:3], reports[0], reports[1], reports[2], reports[3])
    scene.folded_to(run_id, 3)
    assert scene.dead_letters(run_id) == []
    assert [decision.seq for decision in scene.decisions(run_id)].count(0) == 1
    assert _audited(scene, run_id)


def test_a_repeated_report_with_other_content_breaks_its_run(scene: Scene, run_id: str) -> None:
    scene.send(report(run_id, 0), report(run_id, 1), report(run_id, 1, train_loss=2.0))
    scene.send(report(run_id, 2))
    contradiction, later = scene.reasons(run_id, 2)
    assert contradiction == (
        f"run {run_id}: report 1 differs from the folded one; two runs share one id"
    )
    assert later.startswith("the run is broken")


def test_a_run_with_more_arms_than_a_decision_can_list_is_broken(scene: Scene, run_id: str) -> None:
    scene.send(report(run_id, 0))
    scene.send(report(run_id, 1, kernels=tuple(kernel(f"k{number}") for number in range(10_001))))
    scene.send(report(run_id, 2))
    too_many, later = scene.reasons(run_id, 2)
    assert too_many.startswith(f"run {run_id}: 10001 arms exceed the limit of 10000")
    assert later.startswith("the run is broken")


# -- run ids ----------------------------------------------------------------------------------


def test_a_first_report_without_run_config_is_a_dead_letter(scene: Scene, run_id: str) -> None:
    before = scene.counted("esper_dead_letters_total", "no-run-config")
    scene.send(report(run_id, 4))
    (reason,) = scene.reasons(run_id, 1)
    assert reason == (
        f"run {run_id} starts with report 4, which has no run_config; fold it from report 0"
    )
    assert scene.stored(run_id) is None
    assert scene.counted("esper_dead_letters_total", "no-run-config") == before + 1


def test_a_report_under_the_key_of_another_run_is_a_dead_letter(scene: Scene, run_id: str) -> None:
    other = neighbour_of(run_id)
    scene.send(report(run_id, 0))
    scene.send_bytes(run_id, encode(report(other, 0)))
    (reason,) = scene.reasons(run_id, 1)
    assert f"must be the run_id {other!r}" in reason
    assert scene.folded_to(run_id, 0)


def test_after_the_closing_report_repeats_are_ignored_and_later_ones_are_dead_letters(
    scene: Scene, run_id: str
) -> None:
    first, closing = report(run_id, 0), report(run_id, 1, closing=True)
    scene.send(first, closing, closing, first, report(run_id, 2))
    (reason,) = scene.reasons(run_id, 1)
    assert reason == f"run {run_id} was closed by report 1; report 2 came after that"
    assert [decision.seq for decision in scene.decisions(run_id)][-1] == 1


def test_a_closed_run_takes_less_than_400_bytes(scene: Scene, run_id: str) -> None:
    kernels = tuple(kernel(f"k{number}") for number in range(40))
    scene.send(report(run_id, 0, kernels=kernels))
    scene.send(report(run_id, 1, closing=True))
    ended = scene.ended(run_id)
    assert (ended.ended, ended.last_seq) == (RunEnd.CLOSED, 1)
    assert len(ended.to_bytes()) < 400
    assert _audited(scene, run_id)


def test_a_second_first_report_breaks_an_open_run(scene: Scene, run_id: str) -> None:
    """Later reports could belong to either of two runs."""
    broken = scene.counted("esper_runs_broken_total", "contradiction")
    scene.send(report(run_id, 0), report(run_id, 1), report(run_id, 0, seed=2), report(run_id, 2))
    second, later = scene.reasons(run_id, 2)
    assert second == f"run {run_id}: report 0 opens the run again; two runs share one id"
    assert later == f"the run is broken: {second}"
    assert scene.ended(run_id).last_seq == 1
    assert scene.counted("esper_runs_broken_total", "contradiction") == broken + 1


def test_a_second_first_report_of_a_closed_run_is_a_dead_letter(scene: Scene, run_id: str) -> None:
    scene.send(report(run_id, 0), report(run_id, 1, closing=True), report(run_id, 0, seed=2))
    (reason,) = scene.reasons(run_id, 1)
    assert reason == (
        f"run {run_id} was closed by report 1 and cannot be opened again; give the new run "
        "another id"
    )
    assert scene.ended(run_id).ended is RunEnd.CLOSED


# -- arms ---------------------------------------------------------------------------------------


def test_a_run_without_arms_is_folded_and_sealed(scene: Scene, run_id: str) -> None:
    scene.send(*(report(run_id, seq) for seq in range(5)), report(run_id, 5, closing=True))
    assert scene.ended(run_id).last_seq == 5
    assert all(decision.operations == () for decision in scene.decisions(run_id))
    assert scene.decisions(run_id)[-1].seq == 5
    assert _audited(scene, run_id)


def test_reports_are_folded_when_the_kernel_of_a_planted_arm_is_replaced(
    scene: Scene, run_id: str
) -> None:
    old = (_seed("a", "old"),)
    scene.send(report(run_id, 0, kernels=(kernel("a", "old"), kernel("b"))))
    scene.send(report(run_id, 1, seeds=old, kernels=(kernel("a", "new"),)))
    scene.send(*(report(run_id, seq, seeds=old) for seq in range(2, 10)))
    scene.send(report(run_id, 10, closing=True))
    assert scene.ended(run_id).last_seq == 10
    assert scene.dead_letters(run_id) == []
    assert _audited(scene, run_id)


# -- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset_ms", "direction"), [(-2 * DAY_MS, "behind"), (30 * 60 * 1000, "ahead")]
)
def test_a_wrong_clock_is_counted_and_does_not_distort_the_latency(
    scene: Scene, run_id: str, offset_ms: int, direction: str
) -> None:
    before = scene.counted("esper_report_clocks_off_total", direction)
    offered = report(run_id, 0, kernels=(kernel("a"),))
    producer = Producer({"bootstrap.servers": scene.running.settings.kafka_bootstrap_servers})
    producer.produce(
        SEED_METRICS.name,
        encode(offered),
        key=run_id.encode(),
        timestamp=int(time.time() * 1000) + offset_ms,
        partition=partition_of(run_id.encode(), SEED_METRICS.partitions),
    )
    producer.flush(60)
    wait_until(
        lambda: scene.counted("esper_report_clocks_off_total", direction) > before,
        "the clock to be counted",
    )
    assert [decision.seq for decision in scene.decisions(run_id)] == [0]
    (total,) = labelled(scene.running, "bandit", "esper_report_to_decision_seconds_sum").values()
    assert 0.0 <= total < 24 * 60 * 60


# -- restarts of the worker -------------------------------------------------------------------


def test_a_restarted_worker_knows_which_runs_are_broken_closed_and_open(
    running: Running, bus: Bus, run_id: str
) -> None:
    scene = Scene(running, bus)
    closed, opened = neighbour_of(run_id), neighbour_of(run_id)
    scene.send(report(run_id, 0), report(run_id, 2))
    scene.send(report(closed, 0), report(closed, 1, closing=True))
    scene.send(report(opened, 0))
    scene.reasons(run_id, 1)
    scene.ended(closed)
    scene.folded_to(opened, 0)
    running.stack.kill("bandit")
    scene.send(report(run_id, 3), report(closed, 2), report(opened, 0, seed=2))
    running.stack.restart("bandit")

    gap, later = scene.reasons(run_id, 2)
    assert later == f"the run is broken: {gap}"
    (after_the_end,) = scene.reasons(closed, 1)
    assert after_the_end.endswith("report 2 came after that")
    (second,) = scene.reasons(opened, 1)
    assert second.endswith("report 0 opens the run again; two runs share one id")


def _audited(scene: Scene, run_id: str) -> bool:
    servers = scene.running.settings.kafka_bootstrap_servers
    return bool(wait_until(partial(_identical, servers, run_id), "an audit without a finding"))


def _identical(servers: str, run_id: str) -> bool:
    return audit(fetch_history(servers, run_id)).identical
