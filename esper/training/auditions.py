"""Auditions in the trainer: take snapshots of the sites, a chunk of samples between two steps."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from esper.audition import (
    MAX_SNAPSHOT_BYTES,
    SiteSnapshot,
    SnapshotRefused,
    by_position,
    losses,
    pack_snapshot,
)
from esper.errors import EsperError
from esper.seed import Site, SiteObserver, evaluation_mode
from esper.topics.models import AdaptationDecision, Audition, AuditionResult
from esper.training.probe import LossFn

log = logging.getLogger("esper")

CHUNK: Final = 64
"""Samples that one training step observes; a chunk costs less than an ordinary step."""

LOSS_TOLERANCE: Final = 1e-3
"""Relative difference up to which the user's loss counts as the one that an audition computes."""


class SamplesRefused(EsperError, ValueError):
    """Audition samples that cannot be used; the message says what to give."""


class AuditionChannel(Protocol):
    """Where snapshots and requests go."""

    def send_snapshot(
        self, snapshot_id: str, site: str, step: int, samples: int, data: bytes | str
    ) -> None: ...
    def send_auditions(self, auditions: tuple[Audition, ...]) -> None: ...


class NoAuditions:
    """A run without auditions."""

    outstanding: Final = 0

    def request(self, decision: AdaptationDecision) -> None:
        """Do nothing."""

    def note(self, result: AuditionResult) -> None:
        """Do nothing."""

    def advance(self, step: int) -> None:
        """Do nothing."""


NO_AUDITIONS: Final = NoAuditions()


class Auditions:
    """The audition samples of a run, and the snapshots that decisions ask for.

    `outstanding` counts the requested auditions without a result.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, Site],
        samples: tuple[Tensor, Tensor],
        loss_fn: LossFn,
    ) -> None:
        """Raise SamplesRefused for samples without as many targets as inputs."""
        self._model, self._sites, self._loss_fn = model, sites, loss_fn
        self._inputs, self._targets = samples
        if len(self._inputs) != len(self._targets):
            raise SamplesRefused(
                f"audition has {len(self._inputs)} inputs and {len(self._targets)} targets; give "
                "the same number of both"
            )
        self.outstanding = 0
        self._channel: AuditionChannel | None = None
        self._waiting: deque[tuple[Audition, ...]] = deque()
        self._taking: _Taking | None = None

    def connect(self, channel: AuditionChannel) -> None:
        """Send snapshots and requests to `channel`."""
        self._channel = channel

    def request(self, decision: AdaptationDecision) -> None:
        """Request the auditions of a decision; the next steps take the snapshot of a new round."""
        if self._channel is None:
            return
        if decision.auditions[0].rung == 0:
            self._waiting.append(decision.auditions)
        else:
            self._send(decision.auditions)

    def note(self, result: AuditionResult) -> None:
        """Count a result."""
        self.outstanding = max(0, self.outstanding - 1)

    def advance(self, step: int) -> None:
        """Observe the next chunk of samples, after a step; send what is complete."""
        if self._taking is None:
            if not self._waiting:
                return
            names = [audition.site for audition in self._waiting[0]]
            self._taking = _Taking({name: self._sites[name] for name in names})
        done = self._taking.observed
        rows = slice(done, done + CHUNK)
        self._taking.observe(self._model, self._inputs[rows], self._targets[rows])
        if self._taking.failure is not None or self._taking.observed >= len(self._inputs):
            self._finish(self._taking, step)
            self._taking = None

    def _finish(self, taken: "_Taking", step: int) -> None:
        assert self._channel is not None
        auditions = self._waiting.popleft()
        snapshot_id = auditions[0].snapshot_id
        for name, samples, data in taken.snapshots(self._loss_fn):
            self._channel.send_snapshot(snapshot_id, name, step, samples, data)
        self._send(auditions)

    def _send(self, auditions: tuple[Audition, ...]) -> None:
        assert self._channel is not None
        self.outstanding += sum(len(audition.kernel_ids) for audition in auditions)
        self._channel.send_auditions(auditions)


class _Taking:
    """A snapshot of several sites that is being taken; `failure` is why it cannot be."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in sites}
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
        self.observed = 0
        self.failure: str | None = None

    def observe(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        """Run the model on samples; what it raises ends the snapshot, not the training."""
        try:
            self._observe(model, inputs, targets)
        except Exception as error:  # noqa: BLE001 - the model and its samples are the user's
            self.failure = f"the model cannot run on the audition samples: {error}"
            log.warning("%s; no kernel is auditioned", self.failure)

    def _observe(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        observers = {name: SiteObserver(site) for name, site in self._sites.items()}
        try:
            with evaluation_mode(model), torch.no_grad():
                outputs: Any = model(inputs)
        finally:
            torch.clear_autocast_cache()
            for observer in observers.values():
                observer.stop()
        for name, observer in observers.items():
            self._keep(name, observer.seen)
        self._outputs.append(outputs)
        self._targets.append(targets)
        self.observed += len(inputs)

    def _keep(self, name: str, pair: tuple[Tensor, Tensor]) -> None:
        """Keep x and h of a chunk in main memory, up to the limit of a site."""
        pairs, chunk = self._seen[name], sum(tensor.nbytes for tensor in pair)
        if (len(pairs) + 1) * chunk <= MAX_SNAPSHOT_BYTES or not pairs:
            x, h = pair
            pairs.append((_in_main_memory(x), _in_main_memory(h)))

    def snapshots(self, loss_fn: LossFn) -> Iterator[tuple[str, int, bytes | str]]:
        """Yield each site with the number of samples, and its snapshot or why it is missing."""
        try:
            if self.failure is not None:
                raise SnapshotRefused(self.failure)
            raw, targets = torch.cat(self._outputs), torch.cat(self._targets)
            outputs, aligned, loss = by_position(raw, targets)
            expected = float(losses(loss, outputs, aligned).mean())
            found = float(loss_fn(raw, targets))
            if abs(found - expected) > LOSS_TOLERANCE * max(1.0, abs(expected)):
                raise SnapshotRefused(
                    f"loss_fn returns {found:.6g} and the {loss.value.replace('_', ' ')} is "
                    f"{expected:.6g}: an audition cannot compute the loss of this run"
                )
        except Exception as error:  # noqa: BLE001 - outputs and loss function are the user's
            yield from ((name, self.observed, str(error)) for name in self._sites)
            return
        if raw.is_cuda:
            torch.cuda.synchronize(raw.device)  # Copies into main memory do not wait.
        for name, pairs in self._seen.items():
            x, h = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            count = len(x)
            shown = SiteSnapshot(x, h, outputs[:count], aligned[:count], loss)
            try:
                yield name, count, pack_snapshot(shown)
            except SnapshotRefused as refusal:
                yield name, count, str(refusal)


def _in_main_memory(tensor: Tensor) -> Tensor:
    """Return a tensor in main memory; a copy from a GPU is complete after a synchronisation."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
