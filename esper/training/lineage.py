"""The record of a run's decisions, their kernels and outcomes, and its file `lineage.json`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esper.errors import EsperError
from esper.topics.codec import digest
from esper.topics.models import (
    AdaptationDecision,
    Cull,
    DecisionOutcome,
    Fossilize,
    Incident,
    KernelReady,
    Operation,
    OutcomeStatus,
    Plant,
)

LINEAGE: Final = "lineage.json"


class SeedRecord(NamedTuple):
    """One planting and its fate. `contribution` is the last measured; None if never measured."""

    step: int
    site: str
    slot: int
    blueprint_id: str
    strategy: str
    contribution: float | None
    fate: str


class KernelPlacement(NamedTuple):
    """A kernel in a grown network: beside the layer of its site, or `merged` into the layer.

    `sha256` is the digest of the kernel's artifact, `alpha` the factor of its output.
    """

    site: str
    slot: int
    kernel_id: str
    sha256: str
    merged: bool = False
    alpha: float = 1.0


class GrownKernel(KernelReady):
    """A kernel of a grown network in `lineage.json`: its announcement, its slot and its alpha.

    These suffice to fetch, verify and plant the kernel again. A `merged` kernel is part of its
    site's layer.
    """

    site: str
    slot: Annotated[int, Field(ge=0)]
    alpha: Annotated[float, Field(ge=0, le=1)]
    merged: bool = False

    @property
    def ready(self) -> KernelReady:
        """The kernel's announcement."""
        return KernelReady(**{name: getattr(self, name) for name in KernelReady.model_fields})


class Lineage(BaseModel):
    """The part of `lineage.json` that is read: the run's id and the kernels in its network."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: Literal["esper-lineage/1"]
    run_id: str
    seeds: tuple[GrownKernel, ...]


class LineageUnreadable(EsperError, ValueError):
    """A folder without a readable `lineage.json`; the message names the field."""


SeedKey = tuple[str, str, int]
"""A planted seed: (decision_id, site, slot)."""


@dataclass(slots=True)
class RunHistory:
    """Decisions in order of arrival, outcomes by decision id, kernels by kernel id.

    Of decisions without operations only the seal is recorded: a lockstep run has one for each
    report. `contributions` are the last measured, `merged` the seeds that are part of a layer,
    `incidents` those that the governor noted.
    """

    decisions: list[AdaptationDecision] = field(default_factory=list)
    outcomes: dict[str, DecisionOutcome] = field(default_factory=dict)
    kernels: dict[str, KernelReady] = field(default_factory=dict)
    contributions: dict[SeedKey, float | None] = field(default_factory=dict)
    merged: set[SeedKey] = field(default_factory=set)
    incidents: list[Incident] = field(default_factory=list)
    sealed: bool = False

    def seed_records(self) -> list[SeedRecord]:
        """Return every planting that was decided, in order, with its fate."""
        return [
            SeedRecord(
                step=self._step(decision),
                site=plant.site,
                slot=plant.slot,
                blueprint_id=plant.blueprint_id,
                strategy=decision.strategy or "",
                contribution=self.contributions.get((decision.decision_id, plant.site, plant.slot)),
                fate=self._fate(index, decision, plant),
            )
            for index, decision in enumerate(self.decisions)
            for plant in decision.operations
            if isinstance(plant, Plant)
        ]

    def lineage(self, run_id: str, grown: Iterable[KernelPlacement]) -> dict[str, Any]:
        """Return the content of `lineage.json` for a network with the kernels `grown`."""
        return {
            "format": "esper-lineage/1",
            "run_id": run_id,
            "seeds": [self._seed(placement) for placement in grown],
            "decisions": [
                {
                    "sha256": digest(decision),
                    "decision": decision.model_dump(mode="json"),
                    "outcome": self._outcome(decision.decision_id),
                }
                for decision in self.decisions
            ],
        }

    def _step(self, decision: AdaptationDecision) -> int:
        outcome = self.outcomes.get(decision.decision_id)
        return outcome.step if outcome else decision.apply_at_step

    def _fate(self, index: int, decision: AdaptationDecision, plant: Plant) -> str:
        outcome = self.outcomes.get(decision.decision_id)
        if outcome is None:
            return "never applied"
        if outcome.status is OutcomeStatus.REFUSED:
            return f"refused: {outcome.reason}"
        if outcome.status is OutcomeStatus.WITHHELD:
            return "withheld in a dry run"
        key = (decision.decision_id, plant.site, plant.slot)
        for incident in self.incidents:
            if key in {(seed.decision_id, seed.site, seed.slot) for seed in incident.seeds}:
                return f"rolled back after {incident.kind} at {incident.step}"
        for later in self.decisions[index + 1 :]:
            answer = self.outcomes.get(later.decision_id)
            if answer is None or answer.status is not OutcomeStatus.APPLIED:
                continue
            for operation in later.operations:
                if _ends(operation, plant):
                    return f"{self._end(operation, decision, plant)} at {answer.step}"
        return "on trial at the end"

    def _end(self, operation: Operation, decision: AdaptationDecision, plant: Plant) -> str:
        if not isinstance(operation, Fossilize):
            return "culled"
        merged = (decision.decision_id, plant.site, plant.slot) in self.merged
        return "merged" if merged else "kept"

    def _seed(self, grown: KernelPlacement) -> dict[str, Any]:
        seed = {
            "site": grown.site,
            "slot": grown.slot,
            "alpha": grown.alpha,
            **self.kernels[grown.kernel_id].model_dump(mode="json"),
            "sha256": grown.sha256,
        }
        return seed | {"merged": True} if grown.merged else seed

    def _outcome(self, decision_id: str) -> dict[str, Any] | None:
        outcome = self.outcomes.get(decision_id)
        return outcome.model_dump(mode="json") if outcome else None


def _ends(operation: Operation, plant: Plant) -> bool:
    return isinstance(operation, Cull | Fossilize) and (
        (operation.site, operation.slot, operation.kernel_id)
        == (plant.site, plant.slot, plant.kernel_id)
    )


def read_lineage(folder: Path) -> Lineage:
    """Return the lineage in the folder of an exported network.

    Raises:
        LineageUnreadable: `lineage.json` is missing, or lacks a field.
    """
    file = folder / LINEAGE
    try:
        return Lineage.model_validate_json(file.read_bytes())
    except OSError as error:
        raise LineageUnreadable(
            f"cannot read {file}: {error.strerror}; name the folder of an exported network"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise LineageUnreadable(
            f"{file} does not describe a network: {where}: {first['msg']}; if an earlier version "
            "wrote the file, export the run again, or train it again"
        ) from error
