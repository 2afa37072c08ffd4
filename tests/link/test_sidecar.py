"""The sidecar on a real broker: a run that reports announces itself again."""

import socket
from pathlib import Path
from typing import Any

import pytest

from esper.link import LinkConfig, sidecar
from esper.topics.bus import create_topics, read_topic
from esper.topics.catalog import TRAINING_RUN
from esper.topics.codec import decode, encode
from esper.topics.connection import KafkaConnection
from esper.topics.models import RunStatus, SeedReport, SiteKind, SiteSignature, TrainingRun
from tests.keys import PATHS

VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(12,))


@pytest.mark.parametrize(("every_s", "announced"), [(600.0, 1), (0.0, 4)])
def test_a_run_announces_itself_with_a_report_when_the_last_time_is_long_ago(
    kafka: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_s: float,
    announced: int,
) -> None:
    monkeypatch.setattr(sidecar, "REANNOUNCE_S", every_s)
    create_topics(kafka.bootstrap_servers)
    run = TrainingRun(
        run_id=f"again-{announced}", status=RunStatus.OPEN, sites={"fc": VECTOR}, lockstep=True
    )
    config = LinkConfig(
        kafka=KafkaConnection(bootstrap_servers=kafka.bootstrap_servers),
        kernel_store=f"file:{tmp_path / 'kernels'}",
        trusted_key_file=str(PATHS.public),
        source="/esper/test",
        run=run,
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        opened = sidecar.Sidecar(config, sidecar.Outbox(theirs), sidecar.Outbox(theirs))
        opened.open()
        for seq in range(3):
            opened.report(encode(SeedReport(run_id=run.run_id, seq=seq, step=seq)))
        opened.close()

    key = run.run_id.encode()
    records = read_topic(kafka.bootstrap_servers, TRAINING_RUN.name, key=key)
    *events, closed = [decode(TrainingRun, record.value) for record in records]
    assert events == [run] * announced
    assert closed.status is RunStatus.CLOSED
