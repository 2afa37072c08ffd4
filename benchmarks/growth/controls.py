"""The controls of the known-answer suite: what each plants when, or how it is decided."""

import random
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks.growth.planting import Planting
from esper.bandit import BUDGET_SHARE, DEFAULT_POLICY, DEFAULT_SELECTION
from esper.tasks import TEACHER_BLUEPRINTS, KnownAnswerTask
from esper.topics.models import Orchestration, PolicySpec, Selection, SelectionLimits

REPORT_EVERY: Final = 10
"""Steps between two reports, over which kernels are blended in too."""

STEPS: Final = 1500
PLANTED_AT: Final = STEPS // 3
"""The step at which those plant that plant once."""

SLOTS: Final = 4
"""Seeds of each site."""

PERIOD: Final = 10
"""Reports from one planting of the periodic control to its next."""

MAX_PARAMS: Final = 2000
"""Of which what is planted by a timetable uses 1,600: one kernel that is of use, hardly more."""

EARLIER: Final = tuple(range(2000, 2005))
"""Seeds of the runs that those with memory remember; never among those that are reported."""


class Choosing(NamedTuple):
    """How a run is decided: by which policy, within which limits, judged how."""

    policy: PolicySpec
    selection: Selection


BANDIT: Final = Choosing(
    DEFAULT_POLICY,
    DEFAULT_SELECTION.model_copy(
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
"""What is compared with all controls. Found on seeds from 1000 on, none of which is reported."""

_BY_CHANCE: Final = PolicySpec(name="random")

LIVE: Final[Mapping[str, Choosing]] = {
    "random-policy": Choosing(
        _BY_CHANCE, BANDIT.selection.model_copy(update={"attention": _BY_CHANCE})
    ),
    "bandit": BANDIT,
    "bandit-memory": BANDIT,
    "bandit-earlier": BANDIT,
}
"""Controls that are decided by a bandit worker, through a broker."""

HOST: Final = "host"
WIDE: Final = "wide"
FIXED: Final = "fixed/"
STATIC_FINAL: Final = "static-final"
BY_TIMETABLE: Final = (HOST, WIDE, "static-right", "random", "periodic", STATIC_FINAL)


class NotYet(Exception):
    """A control that follows another one's run, which has no row yet."""


def fixed(site: str, blueprint_id: str) -> str:
    """Return the control that plants this one kernel at a third of the run."""
    return f"{FIXED}{site}/{blueprint_id}"


def timetable(
    control: str,
    answer: KnownAnswerTask,
    seed: int,
    arms: Mapping[tuple[str, str], int],
    bandit_kept: Sequence[tuple[str, str]] | None,
) -> tuple[Planting, ...]:
    """Return what a control plants, of arms with their parameters.

    Raises:
        NotYet: it plants what the bandit kept, and that is not known.
    """
    if control.startswith(FIXED):
        site, _, blueprint_id = control.removeprefix(FIXED).rpartition("/")
        return (Planting(PLANTED_AT, site, blueprint_id),)
    match control:
        case "static-right":
            right = answer.site, answer.blueprint_id
            return tuple(Planting(0, *arm) for arm in arms if arm == right)
        case "static-final":
            if bandit_kept is None:
                raise NotYet(f"{answer.task.name}, seed {seed}: the bandit has not run")
            return tuple(Planting(0, *arm) for arm in bandit_kept)
        case "random":
            chance = random.Random(f"{answer.task.name}/{seed}")
            return (Planting(PLANTED_AT, *chance.choice(list(arms))),)
        case "periodic":
            return tuple(_periodic(answer, arms, seed))
    return ()


def _periodic(
    answer: KnownAnswerTask, arms: Mapping[tuple[str, str], int], seed: int
) -> Sequence[Planting]:
    """Return the blueprints of the list at the sites in turn, while slots and parameters are left.

    Each turn is a site's, and plants the first blueprint from where the list stands that may be.
    Where list and sites begin follows from the seed: the order in which they are written is no
    merit of the control.
    """
    plantings: list[Planting] = []
    names, sites = [each.blueprint_id for each in TEACHER_BLUEPRINTS], answer.task.sites
    used, place, first = 0, seed, seed // len(names)
    for turn in range(STEPS // (PERIOD * REPORT_EVERY) - 1):
        site = sites[(first + turn) % len(sites)]
        if sum(each.site == site for each in plantings) == SLOTS:
            continue
        for ahead in range(len(names)):
            arm = site, names[(place + ahead) % len(names)]
            if arm in arms and used + arms[arm] <= BUDGET_SHARE * MAX_PARAMS:
                plantings.append(Planting((turn + 1) * PERIOD * REPORT_EVERY, *arm))
                used, place = used + arms[arm], place + ahead + 1
                break
    return plantings
