"""The auditions of a run: snapshots go to the store, requests to Kafka, results to the trainer."""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

from esper.link.frames import AUDITIONS, Frame, Kind
from esper.signing import BadSignature, Purpose, TrustedKeys
from esper.store import KernelStore, StoreError
from esper.topics.bus import Record, RecordPosition
from esper.topics.catalog import AUDITION_REQUESTED, Topic
from esper.topics.codec import Undecodable, decode, encode, sha256_of, signature_of
from esper.topics.models import (
    MAX_TARGETS,
    Audition,
    AuditionRequested,
    AuditionResult,
    AuditionTarget,
    Event,
    KernelAuditioned,
    KernelReady,
    SnapshotArtifact,
)

CLOSE_TIMEOUT_S: Final = 5.0

PART_BYTES: Final = 31 << 20
"""The kernel store takes artifacts of 32 MiB."""

log = logging.getLogger("esper")

Subject = tuple[str, str, int, int]
"""Site, kernel, rung and steps of a requested audition."""

Publish = Callable[[Topic, Event], "Future[RecordPosition]"]


class AuditionLink:
    """Works through the frames of the trainer on a thread of its own: the store may be slow.

    A result is passed on if a trusted key signed it and it answers a request of this run.
    """

    def __init__(
        self,
        run_id: str,
        store: KernelStore,
        keys: TrustedKeys,
        publish: Publish,
        send: Callable[[Frame], None],
    ) -> None:
        """`send` takes the frames for the trainer."""
        self._run_id, self._store, self._keys = run_id, store, keys
        self._publish, self._send = publish, send
        self._kernels: dict[str, KernelReady] = {}
        self._snapshots: dict[tuple[str, str], SnapshotArtifact | str] = {}
        self._requested: dict[str, Subject] = {}
        self._frames: SimpleQueue[Frame | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="esper-auditions", daemon=True)
        self._thread.start()

    def verified(self, ready: KernelReady) -> None:
        """Note the announcement of a kernel, which requests repeat."""
        self._kernels[ready.kernel_id] = ready

    def put(self, frame: Frame) -> None:
        """Queue a `SNAPSHOT` or `AUDITION` frame."""
        self._frames.put(frame)

    def close(self) -> None:
        """Stop after the present frame."""
        self._frames.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def on_result(self, record: Record) -> None:
        """Pass on the result in a record of `kernel-auditioned`, once."""
        value = record.value or b""
        try:
            self._keys.verify(Purpose.AUDITION, value, signature_of(record.headers))
            found = decode(KernelAuditioned, value)
        except (BadSignature, Undecodable) as error:
            log.error("%s is no result of an audition: %s", record.place, error)
            return
        subject = found.site, found.kernel_id, found.rung, found.steps
        if found.run_id != self._run_id or self._requested.get(found.audition_id) != subject:
            return
        del self._requested[found.audition_id]
        self._pass_on(found.result())

    def _work(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                if frame.kind is Kind.SNAPSHOT:
                    self._keep(frame)
                else:
                    self._request(AUDITIONS.validate_json(frame.body), frame.head["seed"])
            except Exception:
                # A bug must not end the thread: the run would wait for results for ever.
                log.exception("an audition cannot be requested")

    def _keep(self, frame: Frame) -> None:
        name = frame.head["snapshot_id"], frame.head["site"]
        # Only the snapshots of the last round are asked for again.
        self._snapshots = {key: one for key, one in self._snapshots.items() if key[0] == name[0]}
        if (reason := frame.head.get("reason")) is not None:
            self._snapshots[name] = reason
            return
        parts = range(0, len(frame.body), PART_BYTES)
        under = _stored_under(name[0])
        try:
            stored = [
                self._store.put(under, frame.body[start : start + PART_BYTES]) for start in parts
            ]
        except StoreError as error:
            self._snapshots[name] = f"the snapshot cannot be stored: {error}"
            return
        self._snapshots[name] = SnapshotArtifact(
            locations=tuple(one.location for one in stored),
            sha256=sha256_of(frame.body),
            bytes=len(frame.body),
            samples=frame.head["samples"],
            step=frame.head["step"],
        )

    def _request(self, auditions: Sequence[Audition], seed: int) -> None:
        """Request the auditions of one rung: each kernel once, for all of its sites."""
        targets: dict[str, list[AuditionTarget]] = {}
        for audition in auditions:
            for kernel_id in audition.kernel_ids:
                target = self._target(audition, kernel_id)
                if isinstance(target, AuditionTarget):
                    targets.setdefault(kernel_id, []).append(target)
                else:
                    self._pass_on(_failed(audition, kernel_id, target))
        one = auditions[0]
        for kernel_id, every in targets.items():
            for start in range(0, len(every), MAX_TARGETS):
                some = tuple(every[start : start + MAX_TARGETS])
                request = AuditionRequested(
                    run_id=self._run_id,
                    kernel_id=kernel_id,
                    kernel=self._kernels[kernel_id],
                    targets=some,
                    rung=one.rung,
                    steps=one.steps,
                    seed=seed,
                )
                for target in some:
                    subject = target.site, kernel_id, one.rung, one.steps
                    self._requested[target.audition_id] = subject
                self._publish(AUDITION_REQUESTED, request)

    def _target(self, audition: Audition, kernel_id: str) -> AuditionTarget | str:
        """Return where to audition a kernel, or why that is not possible."""
        missing = "the snapshot is missing: the run was resumed since it was taken"
        snapshot = self._snapshots.get((audition.snapshot_id, audition.site), missing)
        if isinstance(snapshot, str):
            return snapshot
        if kernel_id not in self._kernels:
            return "the kernel is not verified here"
        audition_id = _id_of(self._run_id, audition, kernel_id)
        return AuditionTarget(audition_id=audition_id, site=audition.site, snapshot=snapshot)

    def _pass_on(self, result: AuditionResult) -> None:
        self._send(Frame(Kind.AUDITIONED, {}, encode(result)))


def _stored_under(snapshot_id: str) -> str:
    """Return a name that no decision mentions: `esper store gc` removes snapshots by their age."""
    return hashlib.sha256(f"snapshot/{snapshot_id}".encode()).hexdigest()


def _id_of(run_id: str, audition: Audition, kernel_id: str) -> str:
    text = f"{run_id}/{audition.snapshot_id}/{audition.site}/{kernel_id}/{audition.rung}"
    return hashlib.sha256(text.encode()).hexdigest()


def _failed(audition: Audition, kernel_id: str, reason: str) -> AuditionResult:
    return AuditionResult(
        site=audition.site,
        kernel_id=kernel_id,
        rung=audition.rung,
        steps=audition.steps,
        reason=reason[:500],
    )
