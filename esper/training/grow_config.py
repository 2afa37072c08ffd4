"""`GrowConfig`: the settings of a run beyond those that `esper.grow` takes as keywords.

This module loads no torch: the command line builds its options from these fields.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from esper.bandit import DEFAULT_POLICY
from esper.settings import Settings
from esper.topics.models import MemorySnapshot, PolicySpec, Selection
from esper.training.loss_monitor import GovernorSettings

SEAL_TIMEOUT_S: Final = 10.0
"""A bandit worker that died restarts within this time."""


@dataclass(frozen=True, slots=True)
class LockstepTimeouts:
    """How long a lockstep run waits before it raises LockstepBroken, in seconds.

    `kernels_s` limits the wait for the kernels that the run starts with, `answer_s` the wait for
    the answer to one report and for the kernels that the answer plants, `auditions_s` the wait for
    the results of a rung of auditions.
    """

    kernels_s: float = 120.0
    answer_s: float = 60.0
    auditions_s: float = 1800.0


class GrowConfig(BaseModel):
    """The settings of a run that most runs leave at their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Annotated[
        PolicySpec,
        Field(
            description="The bandit that chooses among blueprints. Set it to compare policies, or "
            "to `linear-thompson`, which scores arms by features, when arms outnumber trials."
        ),
    ] = DEFAULT_POLICY
    selection: Annotated[
        Selection | None,
        Field(
            description="How sites are chosen, which limits no decision may break, and when a "
            "kernel is kept. Default: `esper.AUDITIONED`, which tries all kernels beside the "
            "training first, if the run has `audition` samples; else `esper.TRIALS`, which tries "
            "a few at a time in the network. `esper.TOURNAMENT` tries many early and keeps few; "
            "pass `Selection(limits=...)` to pin or ban blueprints, or to bound parameters."
        ),
    ] = None
    family: Annotated[
        str | None,
        Field(
            description="Runs of one family share memory. Default: the run's name. Set it when "
            "runs with different names train the same task."
        ),
    ] = None
    memory: Annotated[
        bool | MemorySnapshot | None,
        Field(
            description="Whether the run starts with the results of earlier runs of its family "
            "and stores its own. Default: yes, except in lockstep. A `MemorySnapshot` starts the "
            "run with exactly that memory. Without Redis a run starts without memory and logs it."
        ),
    ] = None
    lockstep: Annotated[
        bool | LockstepTimeouts,
        Field(
            description="Whether training waits for the answer to each report, so that a run on a "
            "CPU can be repeated bit for bit; a `LockstepTimeouts` also sets the time limits. "
            "Costs about 10 ms per report. For experiments and tests, in one process."
        ),
    ] = False
    governor: Annotated[
        bool | GovernorSettings,
        Field(
            description="Whether a kernel on trial is removed, and the run restored, when the "
            "training loss becomes NaN, diverges or collapses; a `GovernorSettings` sets the "
            "thresholds. Off over several ranks, which the log reports."
        ),
    ] = True
    dry_run: Annotated[
        bool,
        Field(
            description="Whether decisions are recorded and withheld. The model trains bit for "
            "bit as without Esper; `esper audit` shows the decisions."
        ),
    ] = False
    seal_timeout_s: Annotated[
        float,
        Field(
            ge=0,
            description="Seconds that closing waits for the decision that seals the run's "
            "record. Lower it when no bandit worker runs.",
        ),
    ] = SEAL_TIMEOUT_S
    settings: Annotated[
        Settings | None,
        Field(
            description="Addresses of Kafka, Redis and the kernel store, and the trusted key. "
            "Default: the environment, then the local stack that `esper up` started."
        ),
    ] = None

    @property
    def lockstep_timeouts(self) -> LockstepTimeouts | None:
        """The time limits of a lockstep run; None if the run is not in lockstep."""
        return LockstepTimeouts() if self.lockstep is True else self.lockstep or None

    @property
    def governor_settings(self) -> GovernorSettings | None:
        """The governor's thresholds; None if the governor is off."""
        return settings_of(self.governor)

    @property
    def memory_snapshot(self) -> MemorySnapshot | None:
        """The memory that the run starts with, if it is given."""
        return self.memory if isinstance(self.memory, MemorySnapshot) else None

    @property
    def reads_memory(self) -> bool:
        """Whether the link reads the family's memory from Redis when the run opens."""
        return not self.lockstep if self.memory is None else self.memory is True


def settings_of(governor: bool | GovernorSettings) -> GovernorSettings | None:
    """Return the thresholds that `governor=` asks for; None if it is off."""
    return GovernorSettings() if governor is True else governor or None


def config_table() -> str:
    """Return the fields of GrowConfig as a Markdown table."""
    lines = ["| field | default | meaning |", "| --- | --- | --- |"]
    for name, field in GrowConfig.model_fields.items():
        meaning = (field.description or "").replace("|", r"\|")
        lines.append(f"| `{name}` | {_default(field.default)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    return "`esper.DEFAULT_POLICY`" if value is DEFAULT_POLICY else f"`{value!r}`"


if __name__ == "__main__":
    print(config_table(), end="")
