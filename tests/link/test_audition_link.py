"""The auditions of a run in its link process: what is requested, and which results count."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from esper.link.audition_link import PART_BYTES, AuditionLink
from esper.link.frames import AUDITIONS, Frame, Kind
from esper.signing import Purpose, SigningKey, create_keys
from esper.store import KernelStore, open_store
from esper.topics.bus import Record
from esper.topics.catalog import Topic
from esper.topics.codec import cloud_event_headers, decode, encode, sha256_of
from esper.topics.models import (
    MAX_TARGETS,
    Audition,
    AuditionRequested,
    AuditionResult,
    KernelAuditioned,
    KernelReady,
    SiteKind,
    SiteSignature,
)
from tests.keys import KEY, TRUSTED
from tests.waiting import wait_until

RUN = "run-1"
SNAPSHOT = "5" * 64
READY = KernelReady(
    kernel_id="a" * 64,
    blueprint_id="line-conv",
    category="conv",
    site_signature=SiteSignature(kind=SiteKind.VECTOR, x=(4,), h=(4,)),
    location="a" * 64 + "/" + "b" * 64,
    sha256="b" * 64,
    ed25519_signature="0" * 128,
    bytes=100,
    params=10,
)
AUDITION = Audition(
    site="fc1", kernel_ids=(READY.kernel_id,), rung=0, steps=40, snapshot_id=SNAPSHOT
)


class Platform:
    """What an `AuditionLink` reaches: the requests that it publishes, the frames that it sends."""

    def __init__(self, store: KernelStore) -> None:
        self.requests: list[AuditionRequested] = []
        self.frames: list[Frame] = []
        self.link = AuditionLink(RUN, store, TRUSTED, self._publish, self.frames.append)

    def _publish(self, topic: Topic, event: Any) -> "Future[Any]":
        self.requests.append(event)
        return Future()

    def ask(self, audition: Audition = AUDITION, data: bytes | None = b"snapshot") -> None:
        head = {"snapshot_id": SNAPSHOT, "site": "fc1", "step": 7, "samples": 50}
        if data is not None:
            self.link.put(Frame(Kind.SNAPSHOT, head, data))
        self.link.put(Frame(Kind.AUDITION, {"seed": 3}, AUDITIONS.dump_json((audition,))))

    @property
    def results(self) -> list[AuditionResult]:
        return [decode(AuditionResult, frame.body) for frame in self.frames]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with open_store(f"file:{tmp_path}") as store:
        made = Platform(store)
        made.link.verified(READY)
        try:
            yield made
        finally:
            made.link.close()


def result(request: AuditionRequested, **changed: Any) -> KernelAuditioned:
    target = request.targets[0]
    found = KernelAuditioned(
        audition_id=target.audition_id,
        run_id=request.run_id,
        site=target.site,
        kernel_id=request.kernel_id,
        rung=request.rung,
        steps=request.steps,
        gain=0.5,
        error=0.1,
        trained_sha256="c" * 64,
    )
    return found.model_copy(update=changed)


def record(event: KernelAuditioned | bytes, key: SigningKey | None = KEY) -> Record:
    value = event if isinstance(event, bytes) else encode(event)
    signature = None if key is None else key.sign(Purpose.AUDITION, value)
    headers = cloud_event_headers("KernelAuditioned", value, source="/test", signature=signature)
    return Record("kernel-auditioned", 3, 7, 0, RUN.encode(), value, headers)


def requested(platform: Platform) -> AuditionRequested:
    platform.ask()
    wait_until(lambda: platform.requests, "a request")
    return platform.requests[0]


def test_a_request_names_the_kernel_and_a_snapshot_that_the_store_has(
    platform: Platform, tmp_path: Path
) -> None:
    request = requested(platform)
    assert (request.kernel, request.rung, request.steps, request.seed) == (READY, 0, 40, 3)
    with open_store(f"file:{tmp_path}") as store:
        (location,) = request.targets[0].snapshot.locations
        assert store.get(location) == b"snapshot"
    taken = request.targets[0].snapshot
    assert (taken.samples, taken.step) == (50, 7)


def test_a_snapshot_larger_than_an_artifact_is_stored_in_parts(
    platform: Platform, tmp_path: Path
) -> None:
    data = bytes(range(256)) * ((PART_BYTES >> 8) + 1)
    platform.ask(data=data)
    wait_until(lambda: platform.requests, "a request")
    shown = platform.requests[0].targets[0].snapshot
    assert (len(shown.locations), shown.bytes) == (2, len(data))
    with open_store(f"file:{tmp_path}") as store:
        assert b"".join(store.get(location) for location in shown.locations) == data
    assert shown.sha256 == sha256_of(data)


def test_a_later_rung_uses_the_snapshot_of_the_first(platform: Platform) -> None:
    first = requested(platform)
    platform.ask(AUDITION.model_copy(update={"rung": 1, "steps": 80}), data=None)
    wait_until(lambda: len(platform.requests) == 2, "the second request")
    (later,), (earlier,) = platform.requests[1].targets, first.targets
    assert later.snapshot == earlier.snapshot
    assert later.audition_id != earlier.audition_id


def test_a_kernel_is_requested_once_for_all_of_its_sites(platform: Platform) -> None:
    sites = [f"fc{number}" for number in range(MAX_TARGETS + 1)]
    for site in sites:
        head = {"snapshot_id": SNAPSHOT, "site": site, "step": 7, "samples": 50}
        platform.link.put(Frame(Kind.SNAPSHOT, head, site.encode()))
    rung = tuple(AUDITION.model_copy(update={"site": site}) for site in sites)
    platform.link.put(Frame(Kind.AUDITION, {"seed": 3}, AUDITIONS.dump_json(rung)))
    wait_until(lambda: len(platform.requests) == 2, "both requests")
    first, second = platform.requests
    assert (len(first.targets), len(second.targets)) == (MAX_TARGETS, 1)
    assert [target.site for target in first.targets + second.targets] == sites
    for request in platform.requests:
        platform.link.on_result(record(result(request)))
    assert [found.site for found in platform.results] == [sites[0], sites[-1]]


def test_a_signed_result_is_passed_on_once(platform: Platform) -> None:
    answer = record(result(requested(platform)))
    platform.link.on_result(answer)
    platform.link.on_result(answer)
    (found,) = platform.results
    assert (found.gain, found.error, found.trained_sha256) == (0.5, 0.1, "c" * 64)


@pytest.mark.parametrize("forger", ["nobody", "another key", "another purpose", "noise"])
def test_what_no_audition_worker_signed_is_no_result(
    platform: Platform, forger: str, tmp_path: Path
) -> None:
    request = requested(platform)
    forged = record(result(request, gain=9.0), key=None)
    if forger == "another key":
        other = SigningKey.load(create_keys(tmp_path / "other").private)
        forged = record(result(request, gain=9.0), other)
    elif forger == "another purpose":
        value = encode(result(request, gain=9.0))
        headers = cloud_event_headers(
            "KernelAuditioned", value, source="/x", signature=KEY.sign(Purpose.DECISION, value)
        )
        forged = Record("kernel-auditioned", 3, 7, 0, RUN.encode(), value, headers)
    elif forger == "noise":
        forged = record(b"{not json")
    platform.link.on_result(forged)
    assert platform.frames == []
    platform.link.on_result(record(result(request)))
    assert [found.gain for found in platform.results] == [0.5]


@pytest.mark.parametrize(
    "changed",
    [
        {"audition_id": "f" * 64},
        {"run_id": "run-2"},
        {"site": "fc2"},
        {"kernel_id": "d" * 64},
        {"rung": 1},
        {"steps": 400},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_signed_result_of_another_audition_is_not_passed_on(
    platform: Platform, changed: dict[str, Any]
) -> None:
    platform.link.on_result(record(result(requested(platform), **changed)))
    assert platform.frames == []


def test_a_snapshot_that_could_not_be_taken_fails_its_auditions_with_the_reason(
    platform: Platform,
) -> None:
    head = {"snapshot_id": SNAPSHOT, "site": "fc1", "step": 7, "samples": 9, "reason": "too few"}
    platform.link.put(Frame(Kind.SNAPSHOT, head))
    platform.ask(data=None)
    wait_until(lambda: platform.frames, "a result")
    (found,) = platform.results
    assert (found.gain, found.reason, found.kernel_id) == (None, "too few", READY.kernel_id)
    assert platform.requests == []


def test_a_rung_after_a_restart_of_the_trainer_fails_because_its_snapshot_is_gone(
    platform: Platform,
) -> None:
    platform.ask(AUDITION.model_copy(update={"rung": 1}), data=None)
    wait_until(lambda: platform.frames, "a result")
    assert "the snapshot is missing" in (platform.results[0].reason or "")


def test_a_kernel_that_this_run_has_not_verified_fails(platform: Platform) -> None:
    platform.ask(AUDITION.model_copy(update={"kernel_ids": ("e" * 64,)}))
    wait_until(lambda: platform.frames, "a result")
    assert platform.results[0].reason == "the kernel is not verified here"
