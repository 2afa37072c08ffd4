"""A snapshot: what one site saw of a set of samples, and what the host made of them.

A snapshot is data, never code: an audition needs nothing else of the host.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.errors import EsperError

MAX_SNAPSHOT_BYTES: Final = 128 << 20
"""Bytes of x and h of one site; samples beyond are left out."""

MAX_HEADER_BYTES: Final = 4096
MIN_SAMPLES: Final = 32
"""With fewer samples no gain could exceed its standard error."""

TENSORS: Final = frozenset({"x", "h", "outputs", "targets"})
FORMAT: Final = "esper-snapshot/1"


class SnapshotRefused(EsperError, ValueError):
    """Samples, outputs or bytes that no audition can use; the message says what would do."""


class AuditionLoss(StrEnum):
    """The losses that an audition can compute from outputs and targets alone."""

    CROSS_ENTROPY = "cross_entropy"
    """Mean negative log-likelihood of integer labels."""

    MEAN_SQUARED_ERROR = "mean_squared_error"
    """Mean squared error of float targets."""


@dataclass(frozen=True, slots=True)
class SiteSnapshot:
    """The samples of one site.

    `x` (N, *x) and `h` (N, *h) are input and output of the site's layer. `outputs` (N, P, C) are
    the host's, at P positions a sample; `targets` are labels (N, P), or values (N, P, C).
    """

    x: Tensor
    h: Tensor
    outputs: Tensor
    targets: Tensor
    loss: AuditionLoss

    def __len__(self) -> int:
        return len(self.targets)

    def in_single_precision(self) -> "SiteSnapshot":
        """Return the samples as float32, in which kernels of every dtype are auditioned."""
        targets = self.targets.float() if self.targets.is_floating_point() else self.targets
        return SiteSnapshot(
            self.x.float(), self.h.float(), self.outputs.float(), targets, self.loss
        )

    def to(self, device: str) -> "SiteSnapshot":
        """Return the samples on a device."""
        return SiteSnapshot(
            self.x.to(device),
            self.h.to(device),
            self.outputs.to(device),
            self.targets.to(device),
            self.loss,
        )

    def split(self, fit_share: float) -> tuple["SiteSnapshot", "SiteSnapshot"]:
        """Return the first samples, to train with, and the rest, to score with."""
        at = round(len(self) * fit_share)
        return self._rows(slice(0, at)), self._rows(slice(at, None))

    def _rows(self, rows: slice) -> "SiteSnapshot":
        return SiteSnapshot(
            self.x[rows], self.h[rows], self.outputs[rows], self.targets[rows], self.loss
        )


def losses(kind: AuditionLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each sample (..., N), for outputs (..., N, P, C).

    `targets` lack the leading dimensions of `outputs`, which are those of stacked kernels.
    """
    if kind is AuditionLoss.CROSS_ENTROPY:
        wanted = targets.expand(outputs.shape[:-1])
        flat = F.cross_entropy(outputs.flatten(0, -2), wanted.flatten(), reduction="none")
        return flat.view(outputs.shape[:-1]).mean(-1)
    return (outputs - targets).square().mean((-1, -2))


def by_position(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, AuditionLoss]:
    """Return outputs (N, P, C), targets of that layout, and the loss that fits them.

    Labels may be (N,) for outputs (N, C), or (N, *P) for outputs (N, *P, C) or (N, C, *P).

    Raises:
        SnapshotRefused: outputs and targets fit no loss that an audition can compute.
    """
    if outputs.is_floating_point() and not targets.is_floating_point() and outputs.dim() > 1:
        if outputs.shape[:-1] == targets.shape:
            classes = outputs.shape[-1]
        elif outputs.shape[:1] + outputs.shape[2:] == targets.shape:
            outputs, classes = outputs.movedim(1, -1), outputs.shape[1]
        else:
            raise _no_loss_for(outputs, targets)
        count = len(outputs)
        labels = targets.reshape(count, -1).long()
        return outputs.reshape(count, -1, classes), labels, AuditionLoss.CROSS_ENTROPY
    if outputs.shape == targets.shape and outputs.is_floating_point():
        count = len(outputs)
        return (
            outputs.reshape(count, 1, -1),
            targets.reshape(count, 1, -1),
            AuditionLoss.MEAN_SQUARED_ERROR,
        )
    raise _no_loss_for(outputs, targets)


def pack_snapshot(snapshot: SiteSnapshot) -> bytes:
    """Return a snapshot as one safetensors file.

    Raises:
        SnapshotRefused: it has too few samples, or holds values that are not finite.
    """
    tensors = {
        "x": snapshot.x,
        "h": snapshot.h,
        "outputs": snapshot.outputs,
        "targets": snapshot.targets,
    }
    _check(tensors)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"format": FORMAT, "loss": snapshot.loss.value})


def unpack_snapshot(data: bytes) -> SiteSnapshot:
    """Return the snapshot of a safetensors file.

    Raises:
        SnapshotRefused: `pack_snapshot` did not write these bytes.
    """
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise SnapshotRefused(f"not a snapshot of format {FORMAT}")
    try:
        tensors = load(data)
        loss = AuditionLoss(metadata.get("loss", ""))
    except (SafetensorError, ValueError) as error:
        raise SnapshotRefused(f"not a snapshot: {error}") from error
    if tensors.keys() != TENSORS:
        raise SnapshotRefused(f"a snapshot holds {sorted(TENSORS)}, not {sorted(tensors)}")
    _check(tensors)
    return SiteSnapshot(**tensors, loss=loss)


def _metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= MAX_HEADER_BYTES or len(data) < 8 + length:
        raise SnapshotRefused("not a safetensors file: its header's length is wrong")
    try:
        header = orjson.loads(data[8 : 8 + length])
    except orjson.JSONDecodeError as error:
        raise SnapshotRefused(f"not a safetensors file: {error}") from error
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}


def _check(tensors: dict[str, Tensor]) -> None:
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(counts.values())) != 1:
        raise SnapshotRefused(f"the parts hold different numbers of samples: {counts}")
    if counts["targets"] < MIN_SAMPLES:
        raise SnapshotRefused(
            f"{counts['targets']} audition samples are too few to tell kernels apart; give at "
            f"least {MIN_SAMPLES}, better 1,000 or more"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SnapshotRefused(f"{name} holds values that are not finite")


def _no_loss_for(outputs: Tensor, targets: Tensor) -> SnapshotRefused:
    return SnapshotRefused(
        f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} fit no loss that an "
        "audition can compute: it needs class logits with integer labels, or outputs and float "
        "targets of equal shape"
    )
