"""Who the ranks are, and how they tell each other bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.seed import GradientSynchronizer
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import RunConfig, SeedReport, TrainingRun

LEADER: Final = 0
"""The rank, within the group of the wrapped model, that speaks to Kafka."""

RARE_MAIL: Final = timedelta(days=365)
"""Hours may pass between two decisions; a rank that is gone closes its sockets at once."""

NOTE_BYTES: Final = 400


class RanksDiffer(ValueError):
    """Ranks were not given the same model, sites or settings; the message names them."""


class LeaderFailed(RuntimeError):
    """Rank 0 could not begin the run, so that no rank does; the message is rank 0's."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of one wrapped model: a process group for gradients, for votes, and for mail.

    Each has a group of its own, so that what passes in one needs no order against the others,
    nor against the wrapper's. Votes and mail go over the CPU.
    """

    wrapped: DistributedDataParallel
    rank: int
    size: int
    gradients: dist.ProcessGroup
    votes: dist.ProcessGroup
    decoder: dist.ProcessGroup

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
            decoder=_group(members, "gloo", RARE_MAIL),
        )

    @staticmethod
    def several(model: nn.Module) -> bool:
        """Whether a model is trained by more than one process."""
        if not isinstance(model, DistributedDataParallel):
            return False
        return dist.get_world_size(model.process_group) > 1

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that speaks to Kafka."""
        return self.rank == LEADER

    def agreed(self, run: TrainingRun, run_config: RunConfig, step: int) -> TrainingRun:
        """Return the run as rank 0 has named it, once all ranks are known to mean the same.

        `step` is the step of the checkpoint that they go on from.

        Raises:
            RanksDiffer: on every rank, where one means another.
        """
        unnamed = run.model_copy(update={"run_id": ""})
        given = self.noted(sha256_of(encode(unnamed) + encode(run_config) + str(step).encode()))
        odd = [str(rank) for rank, each in enumerate(given) if each != given[LEADER]]
        if odd:
            raise RanksDiffer(
                f"rank {', '.join(odd)} called grow with another model, other sites or other "
                "settings than rank 0; all ranks must make the same call"
            )
        return decode(TrainingRun, self.share(encode(run) if self.leads else None))

    def synchronizer(self) -> GradientSynchronizer:
        """Return what reduces the gradients that the wrapper does not know."""
        wrapped = self.wrapped
        return GradientSynchronizer(
            wrapped.module, self.gradients, lambda: wrapped.require_backward_grad_sync
        )

    def share_reports(self, reports: Sequence[SeedReport]) -> list[SeedReport]:
        """Return the reports that rank 0 has on record."""
        lines = b"\n".join(map(encode, reports))
        shared = self.share(lines if self.leads else None)
        return [decode(SeedReport, line) for line in shared.splitlines()]

    @contextmanager
    def told(self) -> Iterator[None]:
        """On rank 0, tell the other ranks how the block ended: they wait for it in theirs."""
        try:
            yield
        except BaseException as error:
            if self.leads:
                self.share(f"{type(error).__name__}: {error}".encode())
            raise
        if self.leads:
            self.share(b"")

    def noted(self, note: str) -> list[str]:
        """Return the notes of all ranks, by rank; each at most 400 bytes."""
        data = note.encode()[:NOTE_BYTES]
        mine = _tensor_of(data.ljust(NOTE_BYTES, b"\0"))
        notes = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(notes, mine, group=self.votes)
        return [_bytes_of(each).rstrip(b"\0").decode(errors="replace") for each in notes]

    def reasons(self, own: str) -> str:
        """Return why ranks cannot do something, each with its number; `own` is empty if one can."""
        notes = self.noted(own)
        return "; ".join(f"rank {rank}: {note}" for rank, note in enumerate(notes) if note)

    def share(self, data: bytes | None) -> bytes:
        """Return the bytes that rank 0 gave; the others give None."""
        return broadcast(self.votes, data)

    def part(self) -> None:
        """Give the groups back; only after a run that all ranks ended."""
        for group in (self.gradients, self.votes, self.decoder):
            dist.destroy_process_group(group)


def broadcast(group: dist.ProcessGroup, data: bytes | None) -> bytes:
    """Return the bytes that the first rank of a group gave; the others give None."""
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
