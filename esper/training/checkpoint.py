"""A checkpoint of growth: the state of a run except weights and optimizer.

The state is one JSON text and the states of random number generators, so that
`torch.load(..., weights_only=True)` reads it.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from esper.errors import EsperError
from esper.kernel import TORCH_DTYPES, ArtifactRefused, Kernel, KernelPlan
from esper.link import Resumption
from esper.topics.models import (
    AdaptationDecision,
    DecisionOutcome,
    Incident,
    KernelReady,
    RunConfig,
    SeedReport,
    SiteSignature,
    TrainingRun,
)
from esper.training.decision_queue import DecisionQueue
from esper.training.grow_config import GrowConfig
from esper.training.loss_monitor import LossMonitorState
from esper.training.reporter import News, Reporter
from esper.training.run_config import with_explicit_policies
from esper.training.seed_manager import SeedManager, SlotSnapshot

TEXT: Final = "growth"
RNG: Final = "rng"
CUDA_RNG: Final = "cuda_rng"


class CheckpointRefused(EsperError, ValueError):
    """A checkpoint that this training cannot resume; the message says why."""


class PlantedKernel(BaseModel):
    """A kernel beside its layer, without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    slot: int
    plan: str
    sha256: str

    def blank(self) -> Kernel:
        """Return the kernel before its weights are loaded.

        The weights are NaN until then, so that a forgotten `load_state_dict` shows.
        """
        plan = KernelPlan.from_json(self.plan.encode())
        dtype = TORCH_DTYPES[plan.signature.dtype]
        weights = {
            name: torch.full(parameter.shape, torch.nan, dtype=dtype)
            for name, parameter in plan.parameters.items()
        }
        return Kernel(plan, weights, self.sha256)


class Checkpoint(BaseModel):
    """A run between two steps.

    Only applied and refused decisions are saved: the others are read from the topic
    again. `planted` has the optimizer's order of the kernels' parameters. `loss_monitor_state`
    holds the governor's loss statistics; its snapshots are not saved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["esper-growth/1"] = "esper-growth/1"
    run: TrainingRun
    run_config: RunConfig
    step: int
    next_seq: int
    last_report: SeedReport
    news: News
    decisions: tuple[AdaptationDecision, ...]
    outcomes: tuple[DecisionOutcome, ...]
    kernels: tuple[KernelReady, ...]
    contributions: tuple[tuple[str, str, int, float | None], ...]
    merged: tuple[tuple[str, str, int], ...]
    snapshots: tuple[SlotSnapshot, ...]
    planted: tuple[PlantedKernel, ...]
    incidents: tuple[Incident, ...] = ()
    loss_monitor_state: LossMonitorState | None = None

    @classmethod
    def of(
        cls,
        run: TrainingRun,
        step: int,
        seed_manager: SeedManager,
        decision_queue: DecisionQueue,
        reporter: Reporter,
        loss_monitor_state: LossMonitorState | None = None,
    ) -> Self:
        """Return the checkpoint of a run between two steps."""
        run_history = decision_queue.run_history
        concluded = [
            decision
            for decision in run_history.decisions
            if decision.decision_id in run_history.outcomes
        ]
        assert reporter.last is not None
        return cls(
            run=run,
            run_config=reporter.run_config,
            step=step,
            next_seq=reporter.next_seq,
            last_report=reporter.last,
            news=reporter.news,
            decisions=tuple(concluded),
            outcomes=tuple(run_history.outcomes.values()),
            kernels=tuple(run_history.kernels.values()),
            contributions=tuple(
                (*place, contribution) for place, contribution in run_history.contributions.items()
            ),
            merged=tuple(sorted(run_history.merged)),
            snapshots=tuple(seed_manager.snapshot()),
            incidents=tuple(run_history.incidents),
            loss_monitor_state=loss_monitor_state,
            planted=tuple(
                PlantedKernel(
                    site=slot.site,
                    slot=slot.index,
                    plan=seed.kernel.plan.to_json().decode(),
                    sha256=seed.kernel.sha256,
                )
                for slot, seed in seed_manager.planted()
            ),
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the checkpoint of a state that `to_state` returned.

        Raises:
            CheckpointRefused: the state holds no checkpoint of this version.
        """
        try:
            return cls.model_validate_json(state[TEXT])
        except (KeyError, ValidationError) as error:
            raise CheckpointRefused(
                "this is no checkpoint of growth, or one of another version; "
                "give what growth.state_dict() returned"
            ) from error

    @property
    def taken(self) -> frozenset[str]:
        """The ids of decisions that were applied, refused or withheld."""
        return frozenset(decision.decision_id for decision in self.decisions)

    @property
    def asked(self) -> frozenset[str]:
        """The ids of requests that the next report carries."""
        return frozenset(request.request_id for request in self.news.requests)

    @property
    def resumption(self) -> Resumption:
        """The part of the checkpoint that the link needs."""
        return Resumption(
            next_seq=self.next_seq,
            last_report=self.last_report,
            taken=self.taken,
            kernels=frozenset(ready.kernel_id for ready in self.kernels),
        )

    def to_state(self) -> dict[str, Any]:
        """Return the checkpoint with torch's random number states, for `torch.save`."""
        state: dict[str, Any] = {TEXT: self.model_dump_json(), RNG: torch.get_rng_state()}
        if torch.cuda.is_available():
            state[CUDA_RNG] = torch.cuda.get_rng_state()
        return state

    def check(
        self, signatures: Mapping[str, SiteSignature], host_params: int, config: GrowConfig
    ) -> None:
        """Raise CheckpointRefused unless a model and its settings are those of the checkpoint.

        Of the config, only fields that were set are compared.
        """
        if (signatures, host_params) != (self.run.sites, self.run.host_params):
            raise CheckpointRefused(
                f"the checkpoint of run {self.run.run_id} is of another model or of other sites; "
                "make the model as it was before it grew"
            )
        differing = sorted(name for name in config.model_fields_set if self._differs(name, config))
        if differing:
            raise CheckpointRefused(
                f"the checkpoint of run {self.run.run_id} was made with other settings: "
                f"{', '.join(differing)}; leave them out or resume with the same"
            )

    def _differs(self, name: str, config: GrowConfig) -> bool:
        """Return whether a field of the config contradicts the checkpoint's run."""
        kept = with_explicit_policies(self.run_config)
        match name:
            case "selection" if config.selection is None:
                return False
            case "policy" | "selection":
                given = with_explicit_policies(
                    kept.model_copy(update={"policy": config.policy, "selection": config.selection})
                )
                return getattr(kept, name) not in (None, getattr(given, name))
            case "lockstep":
                return bool(config.lockstep) != self.run_config.lockstep
            case "family":
                return config.family not in (None, self.run.task)
            case _:
                return False

    def restore(
        self, seed_manager: SeedManager, decision_queue: DecisionQueue, reporter: Reporter
    ) -> None:
        """Restore a fresh seed manager, decision queue and reporter.

        Raises:
            CheckpointRefused: this version cannot run one of its kernels.
        """
        try:
            kernels = {(entry.site, entry.slot): entry.blank() for entry in self.planted}
        except ArtifactRefused as error:
            raise CheckpointRefused(f"a kernel of the checkpoint does not run: {error}") from error
        seed_manager.restore(self.snapshots, kernels)
        decision_queue.run_history.decisions.extend(self.decisions)
        decision_queue.run_history.outcomes.update(
            {outcome.decision_id: outcome for outcome in self.outcomes}
        )
        decision_queue.run_history.kernels.update(
            {kernel.kernel_id: kernel for kernel in self.kernels}
        )
        decision_queue.run_history.contributions.update(
            {(decision, site, slot): value for decision, site, slot, value in self.contributions}
        )
        decision_queue.run_history.merged.update(self.merged)
        decision_queue.run_history.incidents.extend(self.incidents)
        decision_queue.restore(self.taken | self.asked, self.next_seq)
        reporter.restore(self.next_seq, self.last_report, self.news)


def restore_random_numbers(state: Mapping[str, Any]) -> None:
    """Restore the random number states of torch and of the current GPU."""
    rng: Tensor = state[RNG]
    torch.set_rng_state(rng.cpu())
    if CUDA_RNG in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[CUDA_RNG].cpu())
