"""What a sidecar receives on a real broker: announcements for its own sites, and its decisions."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from esper.blueprint import kernel_id, shipped_named
from esper.kernel import KernelVerified, sign_announcement
from esper.link import Frame, Kind, LinkConfig, Resumption
from esper.link.outbox import Outbox
from esper.link.sidecar import Sidecar
from esper.topics.bus import Bus, create_topics
from esper.topics.catalog import (
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    RUN_CONTROL,
    SEED_METRICS,
)
from esper.topics.codec import encode, sha256_of
from esper.topics.connection import KafkaConnection
from esper.topics.models import (
    CompileStatus,
    KernelCompiled,
    KernelReady,
    RequestKind,
    RunRequest,
    RunStatus,
    SeedReport,
    SiteSignature,
    TrainingRun,
)
from tests.keys import KEY, PATHS
from tests.topics.announcing import ELSEWHERE, HERE, site_apart_from, unsigned
from tests.waiting import TIMEOUT_S, wait_until

VERIFY, WITHDRAW = "verify", "withdraw"


@pytest.fixture(scope="module")
def servers(own_kafka: Any) -> str:
    """Return the address of a broker of this module, whose announcements are counted."""
    create_topics(own_kafka.bootstrap_servers)
    return str(own_kafka.bootstrap_servers)


@pytest.fixture
def workers(servers: str) -> Iterator[Bus]:
    """Return the bus of the workers that the test plays."""
    connected = Bus.connect(servers, source="/esper/test")
    yield connected
    connected.close()


class Frames(Outbox):
    """The frames for the training process."""

    def __init__(self) -> None:
        self.all: list[Frame] = []

    def put(self, frame: Frame) -> None:
        """Note a frame."""
        self.all.append(frame)

    def of(self, kind: Kind) -> list[Frame]:
        return [frame for frame in list(self.all) if frame.kind is kind]


class NotedCalls:
    """Stands in for the kernel loader: notes what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.signatures: list[str] = []

    def verify(self, ready: KernelReady) -> None:
        self.calls.append((VERIFY, ready.blueprint_id))
        self.signatures.append(ready.ed25519_signature)

    def withdraw(self, kernel_id: str) -> None:
        self.calls.append((WITHDRAW, kernel_id))

    def close(self) -> None:
        pass


class Trainer(Sidecar):
    """A sidecar without a training process and a store."""

    def __init__(
        self, servers: str, run_id: str, site: SiteSignature = HERE, **fields: Any
    ) -> None:
        run = TrainingRun(
            run_id=run_id,
            status=RunStatus.OPEN,
            sites={"fc": site},
            lockstep=fields.get("lockstep", False),
        )
        self.frames, self.loader = Frames(), NotedCalls()
        config = LinkConfig(
            kafka=KafkaConnection(bootstrap_servers=servers),
            kernel_store="file:/nonexistent",
            trusted_key_file=str(PATHS.public),
            source="/esper/test",
            run=run,
            **fields,
        )
        super().__init__(config, self.frames, self.frames)
        self._loader.close()
        self._loader = self.loader  # type: ignore[assignment]

    def records(self, topic: str) -> int:
        """Return the number of records received since it opened."""
        return self.received[topic].records if topic in self.received else 0


@pytest.fixture
def trainer(servers: str) -> Iterator[Callable[..., Trainer]]:
    """Return a function that opens a trainer, to be closed after the test."""
    opened: list[Trainer] = []

    def open_trainer(run_id: str, **fields: Any) -> Trainer:
        opened.append(Trainer(servers, run_id, **fields))
        opened[-1].open()
        return opened[-1]

    yield open_trainer
    for one in opened:
        one.disconnect()


def announce(workers: Bus, ready: KernelReady) -> None:
    workers.publish(KERNEL_READY, ready).result(TIMEOUT_S)


def ask(workers: Bus, opened: Trainer, run_id: str) -> None:
    """Send a run a request, and wait for it: a marker behind all that was sent before."""
    request = RunRequest(request_id=sha256_of(b"1"), run_id=run_id, kind=RequestKind.PAUSE)
    workers.publish(RUN_CONTROL, request).result(TIMEOUT_S)
    wait_until(lambda: opened.frames.of(Kind.REQUESTED), "the request")


def confirmed(opened: Trainer, run_id: str) -> None:
    """Send a report: when it is confirmed, the bus has done what it was asked before."""
    opened.report(encode(SeedReport(run_id=run_id, seq=0, step=0)))
    wait_until(lambda: opened.frames.of(Kind.CONFIRMED), "the confirmation")


def test_a_trainer_receives_announcements_and_withdrawals_for_its_own_sites_only(
    workers: Bus, trainer: Callable[..., Trainer]
) -> None:
    alone = site_apart_from(HERE, ELSEWHERE)
    own = unsigned("own", alone)
    announce(workers, own)
    opened = trainer("live", site=alone)
    for name in ("a", "b", "c"):
        announce(workers, unsigned(name, ELSEWHERE))
    workers.withdraw(KERNEL_READY, unsigned("a", ELSEWHERE)).result(TIMEOUT_S)
    again = sign_announcement(KEY, own)  # as `esper kernel sign-again` does
    announce(workers, again)
    workers.withdraw(KERNEL_READY, own).result(TIMEOUT_S)
    announce(workers, unsigned("marker", alone))
    wait_until(lambda: (VERIFY, "marker") in opened.loader.calls, "the marker")
    assert opened.loader.calls == [
        (VERIFY, "own"),
        (VERIFY, "own"),
        (WITHDRAW, own.kernel_id),
        (VERIFY, "marker"),
    ]
    assert opened.loader.signatures[:2] == [own.ed25519_signature, again.ed25519_signature]
    assert opened.records(KERNEL_READY.name) == 4


def test_a_lockstep_run_receives_no_answers_once_it_has_its_kernels(
    workers: Bus, trainer: Callable[..., Trainer]
) -> None:
    blueprint = shipped_named("linear-bottleneck").model_copy(update={"blueprint_id": "begun"})
    workers.publish(BLUEPRINT_SUBMITTED, blueprint).result(TIMEOUT_S)
    wanted = kernel_id(blueprint, HERE)
    ready = unsigned("begun").model_copy(update={"kernel_id": wanted})
    opened = trainer("lockstep", lockstep=True)
    announce(workers, unsigned("other", ELSEWHERE))
    announce(workers, ready)
    wait_until(lambda: (VERIFY, "begun") in opened.loader.calls, "the kernel")
    assert opened.records(KERNEL_READY.name) == 1
    opened._deliver(KernelVerified(ready))
    assert opened.frames.of(Kind.MISSING)[-1].head["kernels"] == 0

    confirmed(opened, "lockstep")
    heard = {topic: opened.records(topic) for topic in opened.received}
    rejected = KernelCompiled(
        kernel_id=wanted, blueprint_id="begun", status=CompileStatus.REJECTED, site_signature=HERE
    )
    workers.publish(KERNEL_COMPILED, rejected).result(TIMEOUT_S)
    workers.publish(BLUEPRINT_SUBMITTED, blueprint).result(TIMEOUT_S)
    announce(workers, unsigned("later"))
    ask(workers, opened, "lockstep")
    for topic in (KERNEL_COMPILED, KERNEL_READY, BLUEPRINT_SUBMITTED):
        assert opened.records(topic.name) == heard[topic.name]
    wait_until(
        lambda: all(thread.name != "esper-blueprints" for thread in threading.enumerate()),
        "the end of the thread that follows blueprints",
    )


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_resumed_run_still_has_the_withdrawn_kernels_of_its_sites(
    workers: Bus, trainer: Callable[..., Trainer], lockstep: bool
) -> None:
    name, run_id = f"kept-{lockstep:d}", f"resumed-{lockstep:d}"
    kept = unsigned(name)
    announce(workers, unsigned(name, ELSEWHERE))
    announce(workers, kept)
    workers.withdraw(KERNEL_READY, kept).result(TIMEOUT_S)
    last = SeedReport(run_id=run_id, seq=0, step=0)
    workers.publish(SEED_METRICS, last).result(TIMEOUT_S)
    resumption = Resumption(
        next_seq=1, last_report=last, taken=frozenset(), kernels=frozenset({kept.kernel_id})
    )
    opened = trainer(run_id, lockstep=lockstep, resumption=resumption)
    assert (VERIFY, name) in opened.loader.calls
    announce(workers, unsigned("behind", ELSEWHERE))
    announce(workers, unsigned("marker"))
    if lockstep:
        ask(workers, opened, run_id)
        assert KERNEL_READY.name not in opened.received
    else:
        wait_until(lambda: (VERIFY, "marker") in opened.loader.calls, "the marker")
        assert opened.loader.calls.count((WITHDRAW, kept.kernel_id)) == 1
