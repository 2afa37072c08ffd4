"""The memory of earlier runs is in a run's first report only."""

import json
import secrets
import socket
from typing import Any

import pytest
from torch.nn import functional as F
from torch.optim import Adam

from esper.bandit import MemoryUpdate
from esper.settings import Settings
from esper.store import RedisRunMemory
from esper.topics.bus import read_topic
from esper.topics.catalog import SEED_METRICS, TRAINING_RUN
from esper.topics.codec import decode
from esper.topics.models import MemorySnapshot, RememberedArm, SeedReport, TrainingRun
from esper.training import Growth, LockstepBroken, LockstepTimeouts
from esper.training.grow import RunNameRefused
from esper.workers.local import KafkaService
from tests.seed.hosts import host, images, labels
from tests.training.fake_workers import Outside
from tests.training.grow_fixture import attach


@pytest.fixture(scope="module")
def kafka(own_kafka: KafkaService) -> KafkaService:
    """Return a broker without blueprints; a lockstep run would wait for their kernels."""
    return own_kafka


@pytest.fixture
def name() -> str:
    """Return a unique run name, and so a family without memory."""
    return f"run-{secrets.token_hex(4)}"


def grown(settings: Settings, name: str, **arguments: Any) -> Growth:
    model = host()
    return attach(
        model,
        Adam(model.parameters(), lr=0.01),
        sites=["conv", "fc1"],
        probe=(images(20), labels(20)),
        loss_fn=F.cross_entropy,
        run=name,
        seal_timeout_s=0.0,
        settings=settings,
        **arguments,
    )


def teach(settings: Settings, family: str, growth: Growth, mean: float = 0.7) -> RememberedArm:
    """Store trials of one blueprint at the first site in a family's memory; return its arm."""
    signature = growth.sites["conv"].signature.text
    assert settings.redis_url is not None
    RedisRunMemory(settings.redis_url).fold(
        family,
        [
            MemoryUpdate(signature, "squeeze-excite", 4, mean),
            MemoryUpdate("vector:999>9", "a", 1, 0.5),
        ],
        run_id=f"earlier-{mean}",
        at_ms=0,
    )
    return RememberedArm(signature=signature, blueprint_id="squeeze-excite", weight=4.0, mean=mean)


def configured_memory(outside: Outside, growth: Growth) -> MemorySnapshot | None:
    first = outside.reports(growth.run_id)[0]
    assert first.run_config is not None
    return first.run_config.memory


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]


def test_a_run_starts_with_the_memory_of_its_family_for_sites_of_equal_signature(
    settings: Settings, outside: Outside, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with grown(settings, name) as first:
        known = teach(settings, name, first)
    with grown(settings, name) as second:
        pass
    assert configured_memory(outside, first) == MemorySnapshot(family=name)
    assert configured_memory(outside, second) == MemorySnapshot(family=name, arms=(known,))
    assert warnings_in(caplog) == []


def test_runs_with_the_same_memory_setting_share_a_family(
    settings: Settings, outside: Outside, name: str
) -> None:
    with grown(settings, "other", family=name) as growth:
        known = teach(settings, name, growth)
    with grown(settings, "another", family=name) as growth:
        pass
    assert configured_memory(outside, growth) == MemorySnapshot(family=name, arms=(known,))
    records = read_topic(
        settings.kafka_bootstrap_servers, TRAINING_RUN.name, key=growth.run_id.encode()
    )
    assert {decode(TrainingRun, record.value).task for record in records} == {name}


def test_a_run_with_memory_off_logs_nothing_about_memory(
    settings: Settings, outside: Outside, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with grown(settings, name, memory=False) as growth:
        pass
    assert configured_memory(outside, growth) is None
    assert warnings_in(caplog) == []


def test_a_given_snapshot_is_used_unchanged(
    settings: Settings, outside: Outside, name: str
) -> None:
    with grown(settings, name) as growth:
        teach(settings, name, growth)
    given = MemorySnapshot(family=name, arms=(teach(settings, name, growth, mean=0.2),))
    with grown(settings, "other", memory=given) as growth:
        pass
    assert configured_memory(outside, growth) == given
    with pytest.raises(RunNameRefused, match=f"cannot begin with memory of family '{name}'"):
        grown(settings, "other", family="third", memory=given)


@pytest.mark.parametrize(("memory", "has_it"), [({}, False), ({"memory": True}, True)])
def test_a_lockstep_run_uses_memory_only_on_request(
    settings: Settings, name: str, memory: dict[str, bool], has_it: bool
) -> None:
    with pytest.raises(LockstepBroken, match="the answer to report 0"):
        grown(settings, name, lockstep=LockstepTimeouts(answer_s=2.0), **memory)
    records = read_topic(settings.kafka_bootstrap_servers, SEED_METRICS.name)
    reports = [decode(SeedReport, record.value) for record in records if name in str(record.key)]
    assert [bool(report.run_config and report.run_config.memory) for report in reports] == [has_it]


@pytest.mark.parametrize("named", [True, False])
def test_a_run_without_redis_starts_without_memory_with_one_warning(
    settings: Settings, outside: Outside, name: str, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{free.getsockname()[1]}/0" if named else None
    with grown(settings.model_copy(update={"redis_url": url}), name) as growth:
        pass
    memory = configured_memory(outside, growth)
    assert memory is not None
    assert memory.arms == ()
    assert memory.note is not None
    assert warnings_in(caplog) == [
        f"run {growth.run_id} begins without memory of others: {memory.note}"
    ]
    assert ("does not answer" if named else "set ESPER_REDIS_URL") in memory.note


def test_a_resumed_run_keeps_its_memory_snapshot(
    settings: Settings, outside: Outside, name: str
) -> None:
    with grown(settings, name) as growth:
        known = teach(settings, name, growth)
    growth = grown(settings, name)
    state = growth.state_dict()
    with pytest.raises(KeyboardInterrupt), growth:
        raise KeyboardInterrupt
    teach(settings, name, growth, mean=0.1)
    resumed = grown(settings, name, state=state)
    again = resumed.state_dict()
    with pytest.raises(KeyboardInterrupt), resumed:
        raise KeyboardInterrupt
    with grown(settings, name, state=again, memory=False) as last:
        kept = json.loads(last.state_dict()["growth"])["run_config"]["memory"]
    assert MemorySnapshot.model_validate_json(json.dumps(kept)).arms == (known,)
    assert configured_memory(outside, last) == MemorySnapshot(family=name, arms=(known,))


def test_a_family_that_is_not_a_valid_key_is_refused(settings: Settings) -> None:
    with pytest.raises(RunNameRefused, match="a family cannot be called 'My Task'"):
        grown(settings, "fine", family="My Task")
