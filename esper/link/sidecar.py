"""The link process itself; `LinkClient` starts it. It ends with its trainer, however that ends."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from socket import socket
from typing import Any, Final, NamedTuple

from esper.kernel import (
    ArtifactRefused,
    Delivery,
    KernelLoader,
    KernelRefused,
    KernelsFailed,
    KernelsPrepared,
    KernelVerified,
    load_public_key,
)
from esper.link.catalogue import Catalogue, expected_kernels
from esper.link.config import LinkConfig
from esper.link.frames import Frame, FrameReader, Kind, receive
from esper.link.memory_reader import MemoryReader
from esper.link.resumption import RecordUnfit, Resumption, since
from esper.store import StoreError, open_store
from esper.topics.bus import Bus, BusError, Record, RecordPosition, StartOffset, read_topic
from esper.topics.catalog import (
    ADAPTATION_DECISION,
    BLUEPRINT_SUBMITTED,
    KERNEL_COMPILED,
    KERNEL_READY,
    RUN_CONTROL,
    SEED_METRICS,
    TRAINING_RUN,
)
from esper.topics.codec import Undecodable, decode, encode
from esper.topics.models import (
    AdaptationDecision,
    CompileStatus,
    KernelCompiled,
    KernelReady,
    Plant,
    RunRequest,
    RunStatus,
    SeedReport,
)

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
ORPHAN_CHECK_S: Final = 1.0

log = logging.getLogger("esper")


class Verified(NamedTuple):
    """Bytes that are those of this SHA-256, signed by a key that is trusted."""

    sha256: str
    data: bytes


class Outbox:
    """Sends frames in order on its own thread, so that senders never wait."""

    def __init__(self, link: socket) -> None:
        self._link = link
        self._frames: SimpleQueue[Frame | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Have a frame sent."""
        self._frames.put(frame)

    def close(self) -> None:
        """Return when all is sent."""
        self._frames.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                self._link.sendall(frame.packed())
            except OSError:
                return


class Sidecar:
    """One run's link: notes and answers go over the desk, decisions and their kernels by mail."""

    def __init__(self, config: LinkConfig, control_channel: Outbox, data_channel: Outbox) -> None:
        """Connect.

        Raises:
            BrokerUnreachable, TopicMismatch, KeyUnusable, StoreUrlInvalid: it is not possible.
        """
        self._run = config.run
        self._servers = config.bootstrap_servers
        self._lockstep = config.lockstep
        self._resumption = config.resumption
        self._catalogue: Catalogue | None = None
        self._control_channel, self._data_channel = control_channel, data_channel
        self._told: set[str] = set()
        self._signatures = set(map(encode, config.run.sites.values()))
        self._recall = MemoryReader(config.redis_url, config.run) if config.remember else None
        key = load_public_key(Path(config.trusted_key_file))
        self._loader: KernelLoader[Verified] = KernelLoader(
            open_store(config.store_url),
            key,
            self._deliver,
            make=lambda ready, data: Verified(ready.sha256, data),
        )
        self._bus = Bus.connect(config.bootstrap_servers, source=config.source)

    def open(self) -> None:
        """Listen, and announce the run.

        Raises:
            RecordUnfit: it is to go on, and its record does not let it.
        """
        key = self._run.run_id.encode()
        if self._resumption is None:
            self._bus.consume(ADAPTATION_DECISION.name, self._hear_decision, key=key)
            self._bus.consume(RUN_CONTROL.name, self._hear_request, key=key)
        else:
            self._take_up(self._resumption, key)
        if not self._lockstep:
            self._bus.consume(KERNEL_READY.name, self._hear_kernel, start=StartOffset.EARLIEST)
        elif self._resumption is None:
            self._expect_kernels()
        self._bus.publish(TRAINING_RUN, self._run).result(OPEN_TIMEOUT_S)
        if self._recall is not None:
            self._control_channel.put(Frame(Kind.MEMORY, {}, encode(self._recall.snapshot())))
        self._control_channel.put(Frame(Kind.OPENED))

    def report(self, value: bytes) -> None:
        """Send a report, and tell when the broker has it."""
        sending = self._bus.publish(SEED_METRICS, decode(SeedReport, value))
        sending.add_done_callback(self._settle)

    def close(self) -> None:
        """Announce that the run wants no more kernels, and disconnect."""
        closed = self._run.model_copy(update={"status": RunStatus.CLOSED})
        try:
            self._bus.publish(TRAINING_RUN, closed).result(CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._control_channel.put(Frame(Kind.LEFT_OPEN))
        self.disconnect()

    def disconnect(self) -> None:
        """Leave, whatever is under way."""
        self._loader.close()
        self._bus.close(CLOSE_TIMEOUT_S)

    def _expect_kernels(self) -> None:
        """Have the kernels of the blueprints that stand now offered, and no others."""
        blueprints = read_topic(self._servers, BLUEPRINT_SUBMITTED.name)
        catalogue = Catalogue(expected_kernels(blueprints, self._run), self._control_channel.put)
        self._catalogue = catalogue
        # Followed before what stands there is read, so that between the two nothing is missed.
        self._bus.consume(KERNEL_COMPILED.name, self._hear_compiled)
        self._bus.consume(KERNEL_READY.name, self._hear_kernel)
        for ready in self._standing():
            if catalogue.announced(ready.kernel_id, earlier=True):
                self._loader.verify(ready)
        catalogue.begin()

    def _take_up(self, resumption: Resumption, key: bytes) -> None:
        """Send the recorded reports of the run, and consume its decisions from the first."""
        reports = read_topic(self._servers, SEED_METRICS.name, key=key)
        logged, last_is_missing = since(resumption, reports, self._run.run_id)
        if last_is_missing:
            self._bus.publish(SEED_METRICS, resumption.last_report).result(OPEN_TIMEOUT_S)
        for value in logged:
            self._control_channel.put(Frame(Kind.LOGGED, {}, value))
        # The loader works in order: what decisions name is verified before they ask for it.
        for ready in self._standing():
            if self._wanted(ready):
                self._loader.verify(ready)
        self._bus.consume(
            ADAPTATION_DECISION.name, self._hear_decision, key=key, start=StartOffset.EARLIEST
        )
        # Requests made while the run was not trained still count; reported ones are not repeated.
        on_record = [decode(SeedReport, record.value) for record in reports]
        self._told = {
            request.request_id
            for report in (*on_record, resumption.last_report)
            for request in report.requests
        }
        self._bus.consume(RUN_CONTROL.name, self._hear_request, key=key, start=StartOffset.EARLIEST)

    def _standing(self) -> Iterator[KernelReady]:
        """Yield the last announcement of each kernel, as they stand now."""
        last = {record.key: record for record in read_topic(self._servers, KERNEL_READY.name)}
        for record in last.values():
            if (ready := _announcement(record)) is not None:
                yield ready

    def _settle(self, sending: "Future[RecordPosition]") -> None:
        if sending.cancelled():
            return
        if error := sending.exception():
            self._control_channel.put(Frame(Kind.FAILED, {"reason": str(error)}))
        else:
            self._control_channel.put(Frame(Kind.CONFIRMED))

    def _hear_decision(self, record: Record) -> None:
        value = record.value or b""
        letter = Frame(Kind.DECISION, {"timestamp_ms": record.timestamp_ms}, value)
        try:
            decision = decode(AdaptationDecision, value)
        except Undecodable:
            self._data_channel.put(letter)
            return  # The trainer says so: it reads the same bytes.
        if self._resumption is not None and decision.decision_id in self._resumption.taken:
            return
        self._data_channel.put(letter)
        needed = [
            operation.kernel_id for operation in decision.operations if isinstance(operation, Plant)
        ]
        if needed:
            self._loader.prepare(decision.decision_id, needed)

    def _hear_request(self, record: Record) -> None:
        try:
            request = decode(RunRequest, record.value)
        except Undecodable as error:
            log.error("%s is not readable: %s", _place(record), error)
            return
        if request.run_id != self._run.run_id:
            log.error("%s is under this run's key and of run %s", _place(record), request.run_id)
        elif request.request_id not in self._told:
            # Over the desk, as an offer: only what reports is to know of it.
            self._control_channel.put(Frame(Kind.ASKED, {}, record.value or b""))

    def _hear_kernel(self, record: Record) -> None:
        ready = _announcement(record)
        if ready is not None and self._wanted(ready):
            self._loader.verify(ready)

    def _wanted(self, ready: KernelReady) -> bool:
        if self._catalogue is not None:
            return self._catalogue.announced(ready.kernel_id)
        if self._resumption is not None and self._lockstep:
            return ready.kernel_id in self._resumption.kernels
        return encode(ready.site_signature) in self._signatures

    def _hear_compiled(self, record: Record) -> None:
        assert self._catalogue is not None
        try:
            compiled = decode(KernelCompiled, record.value)
        except Undecodable as error:
            log.error("%s is not readable: %s", _place(record), error)
            return
        if compiled.status is CompileStatus.REJECTED:
            self._catalogue.rejected(compiled.kernel_id)

    def _deliver(self, delivery: Delivery[Verified]) -> None:
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
                self._data_channel.put(_kernels(token, kernels))
            case KernelsFailed(token, reason):
                self._data_channel.put(
                    Frame(Kind.KERNELS_FAILED, {"token": token, "reason": reason})
                )


def _announcement(record: Record) -> KernelReady | None:
    try:
        return decode(KernelReady, record.value)
    except Undecodable as error:
        log.error("%s is not readable: %s", _place(record), error)
        return None


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _kernels(token: str, kernels: Mapping[str, Verified]) -> Frame:
    listed = [[name, each.sha256, len(each.data)] for name, each in kernels.items()]
    data = b"".join(kernel.data for kernel in kernels.values())
    return Frame(Kind.KERNELS_PREPARED, {"token": token, "kernels": listed}, data)


def serve(control_channel: socket, data_channel: socket) -> None:
    """Do what the trainer asks until it closes the run, or is gone."""
    reader, waiting = FrameReader(), list[Frame]()
    while not waiting:
        if (frames := receive(control_channel, reader)) is None:
            return
        waiting += frames
    out, letters = Outbox(control_channel), Outbox(data_channel)
    config = LinkConfig.model_validate_json(waiting.pop(0).body)
    try:
        process = Sidecar(config, out, letters)
        process.open()
    except (BusError, StoreError, ArtifactRefused, RecordUnfit, TimeoutError) as error:
        out.put(Frame(Kind.REFUSED, {"type": type(error).__name__, "reason": str(error)}))
        out.close()
        return
    try:
        _work(process, control_channel, reader, waiting)
    finally:
        out.close()
        letters.close()


def _work(
    process: Sidecar, control_channel: socket, reader: FrameReader, waiting: list[Frame]
) -> None:
    frames: list[Frame] | None = waiting
    while frames is not None:
        for frame in frames:
            if frame.kind is Kind.CLOSE:
                process.close()
                return
            if frame.kind is Kind.LEAVE:
                process.disconnect()
                return
            process.report(frame.body)
        frames = receive(control_channel, reader)
    process.disconnect()


def _end_with(parent: int) -> None:
    """End this process once its parent is gone, though copies of its sockets may live on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(words: list[str]) -> None:
    """Serve over the two sockets whose descriptors are named."""
    # Ctrl-C reaches the whole group; the trainer decides when the run is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="esper link: %(message)s")
    control_channel, data_channel, parent = map(int, words)
    _end_with(parent)
    serve(socket(fileno=control_channel), socket(fileno=data_channel))


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main(arguments)
