"""The ranks of a wrapped model, and how they exchange bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.errors import EsperError
from esper.seed import GradientSynchronizer
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import RunConfig, SeedReport, TrainingRun

LEADER: Final = 0
"""The rank, within the group of the wrapped model, that talks to Kafka."""

DATA_TIMEOUT: Final = timedelta(days=365)
"""Hours may pass between two decisions; a rank that is gone closes its sockets at once."""

NOTE_BYTES: Final = 400


class RanksDiffer(EsperError, ValueError):
    """Ranks were not given the same model, sites or settings; the message names them."""


class LeaderFailed(EsperError, RuntimeError):
    """Rank 0 could not start the run, so no rank does; the message is rank 0's."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of one wrapped model: process groups for gradients, votes and data.

    Separate groups need no common order of collectives, and none with the wrapper's. Votes and data
    travel over the CPU.
    """

    wrapped: DistributedDataParallel
    rank: int
    size: int
    gradients: dist.ProcessGroup
    votes: dist.ProcessGroup
    data: dist.ProcessGroup

    @classmethod
    def of(cls, model: nn.Module) -> Self | None:
        """Return the ranks of a model in DistributedDataParallel; None where there is one process.

        Every rank of the model's group must call it.
        """
        if not (isinstance(model, DistributedDataParallel) and cls.several(model)):
            return None
        parent = model.process_group
        members = dist.get_process_group_ranks(parent)
        return cls(
            wrapped=model,
            rank=dist.get_rank(parent),
            size=len(members),
            gradients=_group(members, dist.get_backend(parent)),
            votes=_group(members, "gloo"),
            data=_group(members, "gloo", DATA_TIMEOUT),
        )

    @staticmethod
    def several(model: nn.Module) -> bool:
        """Whether a model is trained by more than one process."""
        if not isinstance(model, DistributedDataParallel):
            return False
        return dist.get_world_size(model.process_group) > 1

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that talks to Kafka."""
        return self.rank == LEADER

    def agreed(self, run: TrainingRun, run_config: RunConfig, step: int) -> TrainingRun:
        """Return the run with rank 0's run id, after checking that all ranks start the same run.

        `step` is the step of the checkpoint that the ranks resume; 0 for a new run.

        Raises:
            RanksDiffer: on every rank, if one rank's model, sites or settings differ.
        """
        unnamed = run.model_copy(update={"run_id": ""})
        given = self.gather_notes(
            sha256_of(encode(unnamed) + encode(run_config) + str(step).encode())
        )
        odd = [str(rank) for rank, each in enumerate(given) if each != given[LEADER]]
        if odd:
            raise RanksDiffer(
                f"rank {', '.join(odd)} called grow with another model, other sites or other "
                "settings than rank 0; all ranks must make the same call"
            )
        return decode(TrainingRun, self.share(encode(run) if self.leads else None))

    def synchronizer(self) -> GradientSynchronizer:
        """Return the synchronizer of gradients that the wrapper does not reduce."""
        wrapped = self.wrapped
        return GradientSynchronizer(
            wrapped.module, self.gradients, lambda: wrapped.require_backward_grad_sync
        )

    def share_reports(self, reports: Sequence[SeedReport]) -> list[SeedReport]:
        """Return rank 0's recorded reports."""
        lines = b"\n".join(map(encode, reports))
        shared = self.share(lines if self.leads else None)
        return [decode(SeedReport, line) for line in shared.splitlines()]

    @contextmanager
    def share_outcome(self) -> Iterator[None]:
        """Send the block's result, an error or success, from rank 0 to the waiting ranks."""
        try:
            yield
        except BaseException as error:
            if self.leads:
                self.share(f"{type(error).__name__}: {error}".encode())
            raise
        if self.leads:
            self.share(b"")

    def gather_notes(self, note: str) -> list[str]:
        """Return the notes of all ranks, by rank; notes are cut at 400 bytes."""
        data = note.encode()[:NOTE_BYTES]
        mine = _tensor_of(data.ljust(NOTE_BYTES, b"\0"))
        notes = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(notes, mine, group=self.votes)
        return [_bytes_of(entry).rstrip(b"\0").decode(errors="replace") for entry in notes]

    def reasons(self, own: str) -> str:
        """Return the reasons of all failed ranks with their numbers; `own` is empty on success."""
        notes = self.gather_notes(own)
        return "; ".join(f"rank {rank}: {note}" for rank, note in enumerate(notes) if note)

    def share(self, data: bytes | None) -> bytes:
        """Return the bytes that rank 0 passed; other ranks pass None."""
        return broadcast(self.votes, data)

    def close(self) -> None:
        """Destroy the process groups; only after a run that all ranks ended."""
        for group in (self.gradients, self.votes, self.data):
            dist.destroy_process_group(group)


def broadcast(group: dist.ProcessGroup, data: bytes | None) -> bytes:
    """Return the bytes that the first rank of a group passed; other ranks pass None."""
    size = torch.tensor([len(data or b"")])
    dist.broadcast(size, group=group, group_src=LEADER)
    buffer = torch.empty(int(size), dtype=torch.uint8) if data is None else _tensor_of(data)
    if len(buffer):
        dist.broadcast(buffer, group=group, group_src=LEADER)
    return _bytes_of(buffer) if data is None else data


def _group(members: list[int], backend: str, timeout: timedelta | None = None) -> dist.ProcessGroup:
    group: Any = dist.new_group(
        members, timeout=timeout, backend=backend, use_local_synchronization=True
    )
    made: dist.ProcessGroup = group
    return made


def _tensor_of(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
