"""The controls of the known-answer suite: the kernels that each plants, and when."""

import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from esper.bandit import BUDGET_SHARE, DEFAULT_POLICY, TRIALS
from esper.tasks import TEACHER_BLUEPRINTS, KnownAnswerTask
from esper.topics.models import Orchestration, PolicySpec, Selection, SelectionLimits
from experiments.growth.planting import ScheduledPlant

REPORT_EVERY: Final = 10
"""Steps between two reports; also the blending steps of scheduled kernels."""

STEPS: Final = 1500
PLANTED_AT: Final = STEPS // 3
"""The step at which controls that plant once plant."""

SLOTS: Final = 4
"""Seeds of each site."""

PERIOD: Final = 10
"""Reports between two plantings of the periodic control."""

MAX_PARAMS: Final = 2000
"""Scheduled kernels use 1,600 of these parameters at most: about one useful kernel."""

EARLIER: Final = tuple(range(2000, 2005))
"""Seeds of the runs that `bandit-memory` remembers; results never include them."""


class SelectionSetup(NamedTuple):
    """Policy and selection settings of a run."""

    policy: PolicySpec
    selection: Selection


BANDIT: Final = SelectionSetup(
    DEFAULT_POLICY,
    TRIALS.model_copy(
        update={
            "limits": SelectionLimits(max_on_trial=12, dormant_reports=0, embargo_reports=150),
            "warmup_reports": 28,
            "trial_reports": 4,
            "keep_share": 0.2,
            "keep_first_share": 0.1,
            "orchestration": Orchestration(
                plateau_share=0.02, waits_for_plateau=True, reweight_reports=5
            ),
        }
    ),
)
"""The setup that all controls are compared with, tuned on seeds from 1000 on, never reported."""

_RANDOM: Final = PolicySpec(name="random")

LIVE: Final[Mapping[str, SelectionSetup]] = {
    "random-policy": SelectionSetup(
        _RANDOM, BANDIT.selection.model_copy(update={"attention": _RANDOM})
    ),
    "bandit": BANDIT,
    "bandit-memory": BANDIT,
    "bandit-earlier": BANDIT,
}
"""Controls whose decisions a bandit worker makes, through a broker."""

HOST: Final = "host"
WIDE: Final = "wide"
FIXED: Final = "fixed/"
STATIC_FINAL: Final = "static-final"
SCHEDULED: Final = (HOST, WIDE, "static-right", "random", "periodic", STATIC_FINAL)


class MissingRun(Exception):
    """A control depends on another run that has no row yet."""


def fixed(site: str, blueprint_id: str) -> str:
    """Return the name of the control that plants this kernel at a third of the run."""
    return f"{FIXED}{site}/{blueprint_id}"


def planting_schedule(
    control: str,
    answer: KnownAnswerTask,
    seed: int,
    arms: Mapping[tuple[str, str], int],
    bandit_kept: Sequence[tuple[str, str]] | None,
) -> tuple[ScheduledPlant, ...]:
    """Return the kernels that a control plants; `arms` maps (site, blueprint) to parameters.

    Raises:
        MissingRun: the control plants the bandit's kernels, and `bandit_kept` is None.
    """
    if control.startswith(FIXED):
        site, _, blueprint_id = control.removeprefix(FIXED).rpartition("/")
        return (ScheduledPlant(PLANTED_AT, site, blueprint_id),)
    match control:
        case "static-right":
            right = answer.site, answer.blueprint_id
            return tuple(ScheduledPlant(0, *arm) for arm in arms if arm == right)
        case "static-final":
            if bandit_kept is None:
                raise MissingRun(
                    f"{answer.task.name}, seed {seed}: run the control `bandit` before static-final"
                )
            return tuple(ScheduledPlant(0, *arm) for arm in bandit_kept)
        case "random":
            chance = random.Random(f"{answer.task.name}/{seed}")
            return (ScheduledPlant(PLANTED_AT, *chance.choice(list(arms))),)
        case "periodic":
            return tuple(_periodic(answer, arms, seed))
    return ()


def _periodic(
    answer: KnownAnswerTask, arms: Mapping[tuple[str, str], int], seed: int
) -> Sequence[ScheduledPlant]:
    """Return one planting per period, sites in rotation, while slots and parameters are left.

    A site plants the first possible blueprint from the current list position on. The seed sets
    where list and sites start, so that the order in which they are written does not matter.
    """
    plantings: list[ScheduledPlant] = []
    names, sites = [blueprint.blueprint_id for blueprint in TEACHER_BLUEPRINTS], answer.task.sites
    used, position, first = 0, seed, seed // len(names)
    for turn in range(STEPS // (PERIOD * REPORT_EVERY) - 1):
        site = sites[(first + turn) % len(sites)]
        if sum(planting.site == site for planting in plantings) == SLOTS:
            continue
        for ahead in range(len(names)):
            arm = site, names[(position + ahead) % len(names)]
            if arm in arms and used + arms[arm] <= BUDGET_SHARE * MAX_PARAMS:
                plantings.append(ScheduledPlant((turn + 1) * PERIOD * REPORT_EVERY, *arm))
                used, position = used + arms[arm], position + ahead + 1
                break
    return plantings
