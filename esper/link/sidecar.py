"""The link process; `LinkClient` starts it. It exits when its trainer exits or is killed."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from queue import SimpleQueue
from socket import socket
from typing import Final, NamedTuple, TypeVar

from esper.kernel import (
    Delivery,
    KernelLoader,
    KernelRefused,
    KernelsFailed,
    KernelsPrepared,
    KernelVerified,
    verify_revocation,
)
from esper.link.audition_link import AuditionLink
from esper.link.catalogue import Catalogue, expected_kernels, superseded_kernels
from esper.link.config import LinkConfig
from esper.link.decision_check import DecisionCheck, DecisionLost, DecisionRefused
from esper.link.frames import Frame, FrameReader, Kind, receive
from esper.link.memory_reader import MemoryReader
from esper.link.outbox import CLOSE_TIMEOUT_S, Outbox
from esper.link.resumption import RecordUnfit, Resumption, reports_after
from esper.signing import BadSignature, KeyUnusable, TrustedKeys
from esper.store import StoreError, open_store
from esper.topics.announcements import announced_kernels, partition_keys_of
from esper.topics.bus import (
    Bus,
    BusError,
    Received,
    Record,
    RecordPosition,
    StartOffset,
    Subscription,
    read_topic,
)
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BLUEPRINT_SUBMITTED,
    KERNEL_AUDITIONED,
    KERNEL_COMPILED,
    KERNEL_READY,
    KERNEL_REVOKED,
    RUN_CONTROL,
    SEED_METRICS,
    TRAINING_RUN,
)
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import (
    AdaptationDecision,
    CompileStatus,
    Event,
    KernelCompiled,
    KernelReady,
    KernelRevoked,
    RunRequest,
    RunStatus,
    SeedReport,
)

OPEN_TIMEOUT_S: Final = 10.0
ORPHAN_CHECK_S: Final = 1.0

REANNOUNCE_S: Final = 600.0
"""A run that reports announces itself again this often: one that does not expires."""

log = logging.getLogger("esper")

E = TypeVar("E", bound=Event)


class Verified(NamedTuple):
    """Kernel bytes whose SHA-256 and signature were verified."""

    sha256: str
    data: bytes


class Sidecar:
    """One run's link to Kafka and the kernel store.

    The data channel carries decisions and their kernels; the control channel carries the rest.
    """

    def __init__(self, config: LinkConfig, control_channel: Outbox, data_channel: Outbox) -> None:
        """Connect to the broker and the kernel store.

        Raises:
            BusError: the broker does not serve this run.
            KeyUnusable: the trusted key cannot be read.
            StoreUrlInvalid: `config.kernel_store` is malformed.
        """
        self._run = config.run
        self._kafka = config.kafka
        self._lockstep = config.lockstep
        self._resumption = config.resumption
        self._catalogue: Catalogue | None = None
        self._control_channel, self._data_channel = control_channel, data_channel
        self._announced_s = time.monotonic()
        self._announcing: Future[RecordPosition] | None = None
        self._forwarded_request_ids: set[str] = set()
        self._signatures = set(map(encode, config.run.sites.values()))
        self._memory_reader = (
            MemoryReader(config.redis_url, config.run, config.store_credentials)
            if config.remember
            else None
        )
        self._keys = TrustedKeys(Path(config.trusted_key_file))
        self._decision_check = DecisionCheck(config.run.run_id, self._keys)
        self._refused_decisions = 0
        store = open_store(config.kernel_store, config.store_credentials)
        self._loader: KernelLoader[Verified] = KernelLoader(
            store,
            self._keys,
            self._deliver,
            make=lambda ready, data: Verified(ready.sha256, data),
        )
        self._bus = Bus.connect(config.kafka, source=config.source, on_lost=self._on_topic_lost)
        self._auditions: AuditionLink | None = None
        if config.auditions:
            self._auditions = AuditionLink(
                config.run.run_id, store, self._keys, self._bus.publish, control_channel.put
            )

    def open(self) -> None:
        """Consume the run's topics, and announce the run.

        Raises:
            RecordUnfit: the run cannot be resumed from its recorded reports.
        """
        key = self._run.run_id.encode()
        self._consume_revocations()
        closed = False
        if self._auditions is not None:
            self._bus.consume(KERNEL_AUDITIONED.name, self._auditions.on_result, key=key)
        if self._resumption is None:
            self._bus.consume(ADAPTATION_DECISION.name, self._on_decision, key=key)
            self._bus.consume(RUN_CONTROL.name, self._on_run_control, key=key)
        else:
            closed = self._resume(self._resumption, key)
        if not self._lockstep:
            self._consume_announcements(StartOffset.EARLIEST)
        elif self._resumption is None:
            self._expect_kernels()
        if not closed:
            self._bus.publish(TRAINING_RUN, self._run).result(OPEN_TIMEOUT_S)
        if self._memory_reader is not None:
            self._control_channel.put(
                Frame(Kind.MEMORY, {}, encode(self._memory_reader.snapshot()))
            )
        self._control_channel.put(Frame(Kind.OPENED))

    def report(self, value: bytes) -> None:
        """Publish a report; a `CONFIRMED` or `FAILED` frame follows."""
        if time.monotonic() - self._announced_s > REANNOUNCE_S:
            self._announced_s = time.monotonic()
            self._announcing = self._bus.publish(TRAINING_RUN, self._run)
        report = decode(SeedReport, value)
        self._decision_check.note_report(report, value)
        sending = self._bus.publish(SEED_METRICS, report)
        sending.add_done_callback(self._settle)

    def audition(self, frame: Frame) -> None:
        """Store a snapshot, or request the auditions of a frame; `AUDITIONED` frames follow."""
        if self._auditions is not None:
            self._auditions.put(frame)

    def close(self) -> None:
        """Publish the run as closed, and disconnect."""
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        if self._announcing is not None:
            wait([self._announcing], CLOSE_TIMEOUT_S)  # The closing must be the last record.
        try:
            self._bus.publish(TRAINING_RUN, closed).result(CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._control_channel.put(Frame(Kind.LEFT_OPEN))
        self.disconnect()

    @property
    def received(self) -> Mapping[str, Received]:
        """What the run received from each topic since it opened; without what it read to open."""
        return self._bus.received

    def disconnect(self) -> None:
        """Close the loader and the bus; pending work is dropped."""
        if self._auditions is not None:
            self._auditions.close()
        self._loader.close()
        self._bus.close(CLOSE_TIMEOUT_S)

    def _consume_revocations(self) -> None:
        """Revoke what was revoked so far, before any kernel is offered, and what will be."""
        self._bus.consume(KERNEL_REVOKED.name, self._on_kernel_revoked)
        for record in read_topic(self._kafka, KERNEL_REVOKED.name):
            self._on_kernel_revoked(record)

    def _consume_announcements(self, start: StartOffset) -> Subscription:
        """Consume the partitions of `kernel-ready` that have the kernels for the run's sites."""
        return self._bus.consume(
            KERNEL_READY.name,
            self._on_kernel_ready,
            partition_keys=partition_keys_of(self._run.sites.values()),
            start=start,
        )

    def _expect_kernels(self) -> None:
        """Offer the kernels of the blueprints published so far, and no others."""
        later: SimpleQueue[Record | None] = SimpleQueue()
        consumed = [self._bus.consume(BLUEPRINT_SUBMITTED.name, later.put)]
        blueprints = read_topic(self._kafka, BLUEPRINT_SUBMITTED.name)
        expected = expected_kernels(blueprints, self._run)

        def stop_consuming() -> None:
            for subscription in consumed:
                subscription.close()
            later.put(None)

        catalogue = Catalogue(expected, self._control_channel.put, stop_consuming)
        self._catalogue = catalogue
        last = max((record.offset for record in blueprints), default=-1)

        def follow_blueprints() -> None:
            while (record := later.get()) is not None:
                if record.offset > last:
                    catalogue.superseded(superseded_kernels(record, expected, self._run))

        threading.Thread(target=follow_blueprints, name="esper-blueprints", daemon=True).start()
        # Consumed before the existing records are read, so that no record falls between the two.
        consumed.append(self._bus.consume(KERNEL_COMPILED.name, self._on_kernel_compiled))
        consumed.append(self._consume_announcements(StartOffset.LATEST))
        for ready in announced_kernels(self._kafka, signatures=self._run.sites.values()):
            if catalogue.announced(ready.kernel_id, earlier=True):
                self._loader.verify(ready)
        catalogue.begin()

    def _resume(self, resumption: Resumption, key: bytes) -> bool:
        """Send the run's recorded reports, and consume its decisions from the first one.

        Returns whether the last of the reports closed the run.
        """
        reports = read_topic(self._kafka, SEED_METRICS.name, key=key)
        recorded_values, last_is_missing, closed = reports_after(
            resumption, reports, self._run.run_id
        )
        if last_is_missing:
            self._bus.publish(SEED_METRICS, resumption.last_report).result(OPEN_TIMEOUT_S)
        recorded = [decode(SeedReport, record.value) for record in reports]
        for report, record in zip(recorded, reports, strict=True):
            self._decision_check.note_report(report, record.value or b"")
        self._decision_check.note_report(resumption.last_report, encode(resumption.last_report))
        for value in recorded_values:
            self._control_channel.put(Frame(Kind.RECORDED, {}, value))
        # The loader works in order: kernels are verified before a decision asks for them.
        # A resumed run still has the kernels that were planted before their withdrawal.
        for ready in announced_kernels(
            self._kafka, signatures=self._run.sites.values(), withdrawn=True
        ):
            if self._wanted(ready):
                self._loader.verify(ready)
        self._bus.consume(
            ADAPTATION_DECISION.name, self._on_decision, key=key, start=StartOffset.EARLIEST
        )
        # Requests made while the run was stopped still count; reported ones are not repeated.
        self._forwarded_request_ids = {
            request.request_id
            for report in (*recorded, resumption.last_report)
            for request in report.requests
        }
        self._bus.consume(
            RUN_CONTROL.name, self._on_run_control, key=key, start=StartOffset.EARLIEST
        )
        return closed

    def _settle(self, sending: "Future[RecordPosition]") -> None:
        if sending.cancelled():
            return
        if error := sending.exception():
            self._control_channel.put(
                Frame(Kind.FAILED, {"reason": f"a report cannot be sent ({error})"})
            )
        else:
            self._control_channel.put(
                Frame(Kind.CONFIRMED, {"refused_decisions": self._refused_decisions})
            )

    def _on_decision(self, record: Record) -> None:
        try:
            decision = self._decision_check.accept(record)
        except DecisionLost as error:
            self._control_channel.put(Frame(Kind.FAILED, {"reason": str(error)}))
            return
        except DecisionRefused as error:
            self._refuse_decision(str(error))
            return
        if decision is None or self._was_taken(decision):
            return
        frame = Frame(Kind.DECISION, {"timestamp_ms": record.timestamp_ms}, record.value or b"")
        self._data_channel.put(frame)
        if plants := decision.plants:
            self._loader.prepare(
                decision.decision_id,
                [plant.kernel_id for plant in plants],
                {one.kernel_id: one.trained_sha256 for one in plants if one.trained_sha256},
            )

    def _on_topic_lost(self, topic: str) -> None:
        self._control_channel.put(Frame(Kind.FAILED, {"reason": f"{topic} is not read any more"}))

    def _was_taken(self, decision: AdaptationDecision) -> bool:
        """Whether the checkpoint that this run resumes from has the decision."""
        return self._resumption is not None and decision.decision_id in self._resumption.taken

    def _refuse_decision(self, reason: str) -> None:
        """Report a refusal to the trainer if it is the first, or if their number has doubled."""
        self._refused_decisions += 1
        if self._refused_decisions.bit_count() == 1:
            head = {"count": self._refused_decisions, "reason": reason}
            self._control_channel.put(Frame(Kind.DECISION_REFUSED, head))

    def _on_kernel_revoked(self, record: Record) -> None:
        try:
            revoked = decode(KernelRevoked, record.value)
            verify_revocation(self._keys, revoked)
        except (Undecodable, BadSignature) as error:
            log.error("%s revokes nothing: %s", record.place, error)
            return
        self._loader.revoke(revoked.sha256, revoked.reason)

    def _on_run_control(self, record: Record) -> None:
        request = _decoded(RunRequest, record)
        if request is None:
            return
        if request.run_id != self._run.run_id:
            log.error("%s is of another run: %s", record.place, request.run_id)
        elif request.request_id not in self._forwarded_request_ids:
            # On the control channel: only the rank that reports handles requests.
            self._control_channel.put(Frame(Kind.REQUESTED, {}, record.value or b""))

    def _on_kernel_ready(self, record: Record) -> None:
        if record.value is None:
            # A lockstep run keeps the kernels that it began with, or it could not be repeated.
            if not self._lockstep:
                self._loader.withdraw((record.key or b"").decode("ascii", "replace"))
            return
        ready = _decoded(KernelReady, record)
        if ready is not None and self._wanted(ready):
            self._loader.verify(ready)

    def _wanted(self, ready: KernelReady) -> bool:
        if self._catalogue is not None:
            return self._catalogue.announced(ready.kernel_id)
        if self._resumption is not None and self._lockstep:
            return ready.kernel_id in self._resumption.kernels
        return encode(ready.site_signature) in self._signatures

    def _on_kernel_compiled(self, record: Record) -> None:
        assert self._catalogue is not None
        compiled = _decoded(KernelCompiled, record)
        if compiled is not None and compiled.status is CompileStatus.REJECTED:
            self._catalogue.rejected(compiled.kernel_id)

    def _deliver(self, delivery: Delivery[Verified]) -> None:
        if self._auditions is not None and isinstance(delivery, KernelVerified):
            self._auditions.verified(delivery.ready)
        match delivery:
            case KernelVerified(ready) if self._catalogue is not None:
                self._catalogue.verified(ready)
            case KernelVerified(ready):
                self._control_channel.put(Frame(Kind.KERNEL_VERIFIED, {}, encode(ready)))
            case KernelRefused(kernel_id, reason) if self._catalogue is not None:
                self._catalogue.refused(kernel_id, reason)
            case KernelRefused(kernel_id, reason):
                self._control_channel.put(
                    Frame(Kind.KERNEL_REFUSED, {"kernel_id": kernel_id, "reason": reason})
                )
            case KernelsPrepared(token, kernels):
                self._data_channel.put(_prepared_frame(token, kernels))
            case KernelsFailed(token, reason):
                self._data_channel.put(
                    Frame(Kind.KERNELS_FAILED, {"token": token, "reason": reason})
                )


def _decoded(model: type[E], record: Record) -> E | None:
    """Return the event of a record; log one that cannot be decoded, and return None."""
    try:
        return decode(model, record.value)
    except Undecodable as error:
        log.error("%s cannot be decoded: %s", record.place, error)
        return None


def _prepared_frame(token: str, kernels: Mapping[str, Verified]) -> Frame:
    listed = [[name, kernel.sha256, len(kernel.data)] for name, kernel in kernels.items()]
    data = b"".join(kernel.data for kernel in kernels.values())
    return Frame(Kind.KERNELS_PREPARED, {"token": token, "kernels": listed}, data)


def serve(control_channel: socket, data_channel: socket) -> None:
    """Serve one trainer until it closes the run or exits."""
    reader, waiting = FrameReader(), list[Frame]()
    while not waiting:
        if (frames := receive(control_channel, reader)) is None:
            return
        waiting += frames
    control, data = Outbox(control_channel), Outbox(data_channel)
    config = LinkConfig.model_validate_json(waiting.pop(0).body)
    try:
        process = Sidecar(config, control, data)
        process.open()
    except (BusError, StoreError, KeyUnusable, RecordUnfit, TimeoutError) as error:
        control.put(Frame(Kind.REFUSED, {"type": type(error).__name__, "reason": str(error)}))
        control.close()
        return
    try:
        _work(process, control_channel, reader, waiting)
    finally:
        control.close()
        data.close()


def _work(
    process: Sidecar, control_channel: socket, reader: FrameReader, waiting: list[Frame]
) -> None:
    frames: list[Frame] | None = waiting
    while frames is not None:
        for frame in frames:
            if frame.kind is Kind.CLOSE:
                process.close()
                return
            if frame.kind is Kind.LEAVE_OPEN:
                process.disconnect()
                return
            if frame.kind is Kind.REPORT:
                process.report(frame.body)
            else:
                process.audition(frame)
        frames = receive(control_channel, reader)
    process.disconnect()


def _exit_with_parent(parent: int) -> None:
    """Exit once the parent is gone, even if another process holds copies of its sockets."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Serve on two sockets: file descriptors of control and data, then the parent's pid."""
    # Ctrl-C, systemd and `timeout` signal the whole process group; the trainer ends the run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="esper link: %(message)s")
    # It logs each attempt to reach an absent broker; the bus logs the first.
    logging.getLogger("aiokafka").propagate = False
    control_channel, data_channel, parent = map(int, arguments)
    _exit_with_parent(parent)
    serve(socket(fileno=control_channel), socket(fileno=data_channel))


if __name__ == "__main__":
    main(sys.argv[1:])
