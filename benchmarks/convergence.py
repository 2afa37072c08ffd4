"""What each policy comes to choose in real training, where the right choice is known.

Lockstep runs of the conv teacher on a stack of their own, in two ways. *Choosing*: one kernel at a
time, which is culled when its trial ends, so that a run is nothing but choices; what was just
culled is not planted in exchange for itself. *Growing*: what proves itself is kept, as in any run.
Runs of one number have the same teacher, samples, weights and batches under every policy.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, stdev
from typing import Any, Final, NamedTuple

import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import esper
from benchmarks.result import Figure, Goal, Measured, figure
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from esper.bandit import DEFAULT_POLICY, DEFAULT_SELECTION
from esper.blueprint import shipped_named
from esper.tasks import KnownAnswerTask, conv_teacher
from esper.tasks.train import DatasetSplits, train_task
from esper.topics.models import Fossilize, Plant, PolicySpec, Selection, SelectionLimits
from esper.training import Growth
from esper.workers.cli import publish_blueprints

REPORT_EVERY: Final = 10
BLUEPRINTS: Final = ("channel-mixing-mlp", "gated-linear-unit", "image-conv", "low-rank-skip-wide")
"""The right one, and one of each other kind of structure that a host may lack."""

CHOOSING: Final = DEFAULT_SELECTION.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=1, dormant_reports=0, embargo_reports=0),
        "keep_share": 1.0,
        "orchestration": None,
    }
)
"""The default beliefs, of which a run is nothing but choices: nothing is kept, and no course."""

FIRST_SEED: Final = 27
"""The defaults were found on seeds 0 to 8 and 101 to 105; 11 to 26 were run with other beliefs."""

MAJORITY: Final = 0.5
GOAL: Final = Goal(sense="at least", limit=0.9)


class Setting(NamedTuple):
    """A policy under a name: which blueprint, and by which policy which site."""

    name: str
    policy: PolicySpec
    attention: PolicySpec | None


def alike(name: str, **params: float) -> Setting:
    """Return the setting in which one policy chooses site and blueprint."""
    spec = PolicySpec(name=name, params=params)
    return Setting("-".join((name, *(f"{value:g}" for value in params.values()))), spec, spec)


def flat(name: str, **params: float) -> Setting:
    """Return the setting in which a policy chooses among all pairs of site and blueprint."""
    setting = alike(name, **params)
    return setting._replace(name=f"{setting.name}-flat", attention=None)


DEFAULT: Final = Setting("default", DEFAULT_POLICY, DEFAULT_SELECTION.attention)

SETTINGS: Final = (
    DEFAULT,
    alike("random"),
    alike("ucb1"),
    flat("ucb1", exploration=0.01),
    alike("thompson-gaussian", sigma=0.1, prior_sigma=0.2),
)


class Amount(NamedTuple):
    """How much is measured: seeds of each setting, in each way, over so many epochs."""

    seeds: int
    epochs: int
    settings: Sequence[Setting]


FULL: Final = Amount(seeds=16, epochs=48, settings=SETTINGS)
QUICK: Final = Amount(seeds=1, epochs=2, settings=(DEFAULT,))


class Run(NamedTuple):
    """One run: what was planted and what was kept, as (step, site, blueprint), and how it ended.

    `rewards` are those of each arm, in the order of its trials.
    """

    way: str
    setting: str
    seed: int
    run_id: str
    planted: list[tuple[int, str, str]]
    kept: list[tuple[int, str, str]]
    rewards: dict[str, list[float]]
    test_accuracy: float
    params: int

    def share(self, answer: KnownAnswerTask, third: int) -> float:
        """Return the share of a third of the choices, 0 to 2, that are the right one.

        Choices at which it could not be made are left out: what was just culled is not planted
        in exchange for itself.
        """
        right = [
            (site, name) == (answer.site, answer.blueprint_id) for _, site, name in self.planted
        ]
        open_to_it = [
            chosen for chosen, before in zip(right, [False, *right], strict=False) if not before
        ]
        part = _third(open_to_it, third)
        return sum(part) / len(part) if part else 0.0

    def row(self, answer: KnownAnswerTask) -> dict[str, Any]:
        """Return the run as it is told: counts of plantings by third, and the rest as it is."""
        thirds = [
            Counter(f"{site}/{name}" for _, site, name in _third(self.planted, third))
            for third in range(3)
        ]
        told = {key: value for key, value in self._asdict().items() if key != "planted"}
        return told | {
            "plantings_by_third": [dict(third.most_common()) for third in thirds],
            "right_share_of_open_choices_by_third": [
                self.share(answer, third) for third in range(3)
            ],
            "first_right_step": self.first_right(answer),
        }

    def first_right(self, answer: KnownAnswerTask) -> int | None:
        """Return the step at which the right kernel was first planted."""
        right = (answer.site, answer.blueprint_id)
        return next((step for step, *arm in self.planted if tuple(arm) == right), None)


def run(quick: bool = False) -> Measured:
    """Measure on a stack of its own."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, amount: Amount) -> Measured:
    """Measure on a running stack, to which nothing else was published."""
    publish_blueprints(stack.settings, map(shipped_named, BLUEPRINTS))
    runs: list[Run] = []
    with one_thread():
        for seed in range(FIRST_SEED, FIRST_SEED + amount.seeds):
            for setting in amount.settings:
                choosing = CHOOSING.model_copy(update={"attention": setting.attention})
                growing = DEFAULT_SELECTION.model_copy(update={"attention": setting.attention})
                for way, selection in (("choosing", choosing), ("growing", growing)):
                    runs.append(trained(stack, amount, setting, way, selection, seed))
    answer = conv_teacher()
    return Measured(
        parameters={
            "seeds": amount.seeds,
            "epochs": amount.epochs,
            "report_every_steps": REPORT_EVERY,
            "blueprints": len(BLUEPRINTS),
            "sites": len(answer.task.sites),
        },
        figures=tuple(figures_of(runs, answer)),
        runs=tuple(each.row(answer) for each in runs),
    )


def figures_of(runs: Sequence[Run], answer: KnownAnswerTask) -> Iterator[Figure]:
    """Yield what each setting came to, over its runs."""
    for name in dict.fromkeys(each.setting for each in runs):
        choosing, growing = (
            [each for each in runs if each.setting == name and each.way == way]
            for way in ("choosing", "growing")
        )
        last = [each.share(answer, 2) for each in choosing]
        yield figure(
            f"majority-{name}",
            f"{name}: the right site and blueprint are more than half of the last third of choices "
            "open to them",
            "share",
            [mean(share > MAJORITY for share in last)],
            goal=GOAL if name == DEFAULT.name else None,
        )
        yield figure(f"right-{name}", f"{name}: the right one, of that third", "share", last)
        yield figure(
            f"kept-{name}",
            f"{name}: the right kernel was kept at its site, growing",
            "share",
            [mean(_keeps(each, answer) for each in growing)],
        )
        yield figure(
            f"accuracy-{name}",
            f"{name}: test accuracy, growing",
            "share",
            [each.test_accuracy for each in growing],
        )
        noise = [stdev(each) for run in choosing for each in run.rewards.values() if len(each) > 1]
        if noise:
            yield figure(f"noise-{name}", f"{name}: spread of an arm's rewards", "reward", noise)


def trained(
    stack: Stack, amount: Amount, setting: Setting, way: str, selection: Selection, seed: int
) -> Run:
    """Return one run, trained and ended."""
    growths: list[Growth] = []
    task = conv_teacher(seed).task

    @contextmanager
    def attach(model: nn.Module, optimizer: Optimizer, splits: DatasetSplits) -> Iterator[Growth]:
        with esper.grow(
            model,
            optimizer,
            sites=task.sites,
            probe=splits.probe,
            loss_fn=F.cross_entropy,
            run="convergence",
            report_every=REPORT_EVERY,
            seed=seed,
            config=esper.GrowConfig(
                policy=setting.policy, selection=selection, settings=stack.settings, lockstep=True
            ),
        ) as growth:
            growths.append(growth)
            yield growth

    result = train_task(task, seed, amount.epochs, attach)
    growth = growths[0]
    return Run(
        way=way,
        setting=setting.name,
        seed=seed,
        run_id=growth.run_id,
        planted=list(_operations(growth, Plant)),
        kept=list(_operations(growth, Fossilize)),
        rewards=_rewards(growth),
        test_accuracy=result.test_accuracy,
        params=result.params,
    )


def _operations(
    growth: Growth, kind: type[Plant] | type[Fossilize]
) -> Iterator[tuple[int, str, str]]:
    """Yield what was done of a kind, as (step, site, blueprint)."""
    run_history = growth.run_history
    for decision in run_history.decisions:
        outcome = run_history.outcomes.get(decision.decision_id)
        for operation in decision.operations if outcome else ():
            if isinstance(operation, kind) and outcome is not None:
                name = run_history.kernels[operation.kernel_id].blueprint_id
                yield outcome.step, operation.site, name


def _rewards(growth: Growth) -> dict[str, list[float]]:
    """Return the rewards of each arm, as the candidates of successive decisions tell them."""
    rewards: dict[str, list[float]] = {}
    for decision in growth.run_history.decisions:
        for each in decision.candidates:
            told = rewards.setdefault(f"{each.site}/{each.blueprint_id}", [])
            if each.mean is not None and each.pulls == len(told) + 1:
                told.append(round(each.mean * each.pulls - sum(told), 6))
    return {arm: told for arm, told in rewards.items() if told}


def _keeps(run: Run, answer: KnownAnswerTask) -> bool:
    return any((site, name) == (answer.site, answer.blueprint_id) for _, site, name in run.kept)


def _third(planted: Sequence[Any], third: int) -> Sequence[Any]:
    count = len(planted)
    return planted[third * count // 3 : (third + 1) * count // 3]
