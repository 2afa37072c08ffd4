"""What the fold remembers of a run between two reports: plain, frozen, serialisable data."""

from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field

from esper.bandit import ArmStatistics
from topics.codec import Undecodable, sha256_of
from topics.models import LoadableKernel, PolicySpec, SeedReport
from topics.models.event import SiteName


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Frozen):
    """A (site, blueprint) that can be planted, and how it has done here.

    `embargo_until_seq` is the first report at which the arm may be planted again.
    """

    kernel: LoadableKernel
    pulls: int = 0
    mean: float = 0.0
    embargo_until_seq: int = 0

    @property
    def statistics(self) -> ArmStatistics:
        """The part of the arm that policies see."""
        return ArmStatistics(self.pulls, self.mean)

    @property
    def name(self) -> tuple[str, str]:
        """Site and kernel, by which a planted seed is recognised."""
        return self.kernel.site, self.kernel.kernel_id

    def embargoed(self, until_seq: int) -> "Arm":
        """Return the arm that may not be planted before report `until_seq`."""
        return self.model_copy(update={"embargo_until_seq": until_seq})

    def rewarded(self, reward: float) -> "Arm":
        """Return the arm after one more trial."""
        statistics = self.statistics.after(reward)
        return self.model_copy(update={"pulls": statistics.pulls, "mean": statistics.mean})


class Trial(_Frozen):
    """A planted seed whose worth is being measured; judged once, when enough is known.

    `contributions` has one entry per report at full alpha, None where it could not be measured.
    """

    site: SiteName
    slot: int
    kernel_id: str
    contributions: tuple[float | None, ...] = ()
    judged: bool = False


class Pending(_Frozen):
    """A decision that the trainer has not answered yet, and the arms it would plant."""

    decision_id: str
    planted: tuple[tuple[SiteName, str], ...] = ()


class FoldState(_Frozen):
    """The state of one run after report `last_seq`.

    `evidence_sha256` chains the digests of all reports folded so far, which puts every one of them
    under the state's digest. `previous_sha256` is the digest of the last decision's bytes; it is
    left out of the state's digest, which that decision contains.
    """

    run_id: str
    seed: int
    slots: dict[SiteName, int]
    policy: PolicySpec
    host_params: int
    report_interval_steps: int
    lockstep: Annotated[bool, Field(exclude_if=lambda lockstep: not lockstep)] = False
    last_seq: int = -1
    closed: bool = False
    evidence_sha256: str = ""
    arms: tuple[Arm, ...] = ()
    trials: tuple[Trial, ...] = ()
    pending: tuple[Pending, ...] = ()
    previous_sha256: str | None = None

    @classmethod
    def opened_by(cls, report: SeedReport) -> "FoldState":
        """Return the state before the first report of a run.

        Raises:
            ValueError: the report opens no run.
        """
        opening = report.opening
        if opening is None:
            raise ValueError(f"report {report.seq} of run {report.run_id} opens no run")
        return cls(
            run_id=report.run_id,
            seed=opening.seed,
            slots=opening.slots,
            policy=opening.policy,
            host_params=opening.host_params,
            report_interval_steps=opening.report_interval_steps,
            lockstep=opening.lockstep,
        )

    def sha256(self) -> str:
        """Return the digest of the state, `previous_sha256` left out."""
        return sha256_of(_canonical(self.model_dump(mode="json", exclude={"previous_sha256"})))

    def to_bytes(self) -> bytes:
        """Return the state as canonical JSON."""
        return _canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, value: bytes) -> "FoldState":
        """Return the state that `to_bytes` wrote.

        Raises:
            Undecodable: these bytes are no state of this version.
        """
        try:
            return cls.model_validate_json(value)
        except ValueError as error:
            raise Undecodable(f"not a fold state of this version: {error}") from error


def _canonical(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
