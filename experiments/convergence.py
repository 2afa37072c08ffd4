"""Choices of each policy in real training, where the right choice is known.

Lockstep runs of the conv teacher on their own stack, in two modes. *Choosing*: one kernel at a
time, culled at the end of its trial, so that a run consists of choices; a kernel that was just
culled is not open to the next choice. *Growing*: kernels are kept as in any run. Runs of one seed
have the same teacher, samples, weights and batches under every policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, stdev
from typing import Any, Final, NamedTuple

import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

import esper
from benchmarks.result import Figure, Goal, Measurement, figure
from benchmarks.stack import Stack, local_stack
from benchmarks.threads import one_thread
from esper.bandit import DEFAULT_POLICY, TRIALS
from esper.blueprint import shipped_named
from esper.tasks import DatasetSplits, KnownAnswerTask, conv_teacher, train_task
from esper.topics.models import Fossilize, Plant, PolicySpec, Selection, SelectionLimits
from esper.training import Growth
from esper.workers.cli import publish_blueprints

REPORT_EVERY: Final = 10
BLUEPRINTS: Final = ("channel-mixing-mlp", "gated-linear-unit", "image-conv", "low-rank-skip-wide")
"""The right blueprint, and one for each other structure that a host may lack."""

CHOOSING: Final = TRIALS.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=1, dormant_reports=0, embargo_reports=0),
        "keep_share": 1.0,
        "orchestration": None,
    }
)
"""The default settings without keeping and orchestration, so that a run consists of choices."""

FIRST_SEED: Final = 27
"""Defaults were tuned on seeds 0 to 8 and 101 to 105; other settings ran on 11 to 26."""

MAJORITY: Final = 0.5
GOAL: Final = Goal(sense="at least", limit=0.9)


class PolicySetting(NamedTuple):
    """A named pair of policies: `policy` chooses the blueprint, `attention` the site."""

    name: str
    policy: PolicySpec
    attention: PolicySpec | None


def shared(name: str, **params: float) -> PolicySetting:
    """Return the setting in which one policy chooses both site and blueprint."""
    spec = PolicySpec(name=name, params=params)
    return PolicySetting("-".join((name, *(f"{value:g}" for value in params.values()))), spec, spec)


def flat(name: str, **params: float) -> PolicySetting:
    """Return the setting in which a policy chooses among all (site, blueprint) pairs."""
    setting = shared(name, **params)
    return setting._replace(name=f"{setting.name}-flat", attention=None)


DEFAULT: Final = PolicySetting("default", DEFAULT_POLICY, TRIALS.attention)

SETTINGS: Final = (
    DEFAULT,
    shared("random"),
    shared("ucb1"),
    flat("ucb1", exploration=0.01),
    shared("thompson-gaussian", sigma=0.1, prior_sigma=0.2),
)


class Workload(NamedTuple):
    """Seeds per setting and mode, epochs of a run, and the settings."""

    seeds: int
    epochs: int
    settings: Sequence[PolicySetting]


FULL: Final = Workload(seeds=16, epochs=48, settings=SETTINGS)
QUICK: Final = Workload(seeds=1, epochs=2, settings=(DEFAULT,))


class TrainedRun(NamedTuple):
    """One run; `planted` and `kept` are (step, site, blueprint).

    `rewards` maps an arm to its rewards, in the order of its trials.
    """

    mode: str
    setting: str
    seed: int
    run_id: str
    planted: list[tuple[int, str, str]]
    kept: list[tuple[int, str, str]]
    rewards: dict[str, list[float]]
    test_accuracy: float
    params: int

    def share(self, answer: KnownAnswerTask, third: int) -> float:
        """Return the share of right choices in a third (0 to 2) of the choices.

        Choices that could not be right are left out: a kernel that was just culled is not open.
        """
        right = [
            (site, name) == (answer.site, answer.blueprint_id) for _, site, name in self.planted
        ]
        open_choices = [
            chosen for chosen, before in zip(right, [False, *right], strict=False) if not before
        ]
        part = _third(open_choices, third)
        return sum(part) / len(part) if part else 0.0

    def row(self, answer: KnownAnswerTask) -> dict[str, Any]:
        """Return the summary of the run that results keep; lists are by third of the run."""
        thirds = range(3)
        return {
            "mode": self.mode,
            "setting": self.setting,
            "seed": self.seed,
            "plantings": [len(_third(self.planted, third)) for third in thirds],
            "right_share": [round(self.share(answer, third), 4) for third in thirds],
            "first_right_step": self.first_right(answer),
            "kept": [f"{site}/{name}" for _, site, name in self.kept],
            "test_accuracy": self.test_accuracy,
            "params": self.params,
            "run_id": self.run_id,
        }

    def first_right(self, answer: KnownAnswerTask) -> int | None:
        """Return the step at which the right kernel was first planted; None if never."""
        right = (answer.site, answer.blueprint_id)
        return next((step for step, *arm in self.planted if tuple(arm) == right), None)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack without other blueprints."""
    publish_blueprints(stack.settings, map(shipped_named, BLUEPRINTS))
    runs: list[TrainedRun] = []
    with one_thread():
        for seed in range(FIRST_SEED, FIRST_SEED + workload.seeds):
            for setting in workload.settings:
                choosing = CHOOSING.model_copy(update={"attention": setting.attention})
                growing = TRIALS.model_copy(update={"attention": setting.attention})
                for mode, selection in (("choosing", choosing), ("growing", growing)):
                    runs.append(trained(stack, workload, setting, mode, selection, seed))
    answer = conv_teacher()
    return Measurement(
        parameters={
            "seeds": workload.seeds,
            "epochs": workload.epochs,
            "report_every_steps": REPORT_EVERY,
            "blueprints": len(BLUEPRINTS),
            "sites": len(answer.task.sites),
        },
        figures=tuple(figures_of(runs, answer)),
        runs=tuple(run.row(answer) for run in runs),
    )


def figures_of(runs: Sequence[TrainedRun], answer: KnownAnswerTask) -> Iterator[Figure]:
    """Yield the figures of each setting over its runs."""
    for name in dict.fromkeys(run.setting for run in runs):
        choosing, growing = (
            [run for run in runs if run.setting == name and run.mode == mode]
            for mode in ("choosing", "growing")
        )
        last = [run.share(answer, 2) for run in choosing]
        yield figure(
            f"majority-{name}",
            f"{name}: the right site and blueprint are more than half of the last third of choices "
            "open to them",
            "share",
            [mean(share > MAJORITY for share in last)],
            goal=GOAL if name == DEFAULT.name else None,
        )
        yield figure(
            f"right-{name}", f"{name}: share of right choices in that third", "share", last
        )
        yield figure(
            f"kept-{name}",
            f"{name}: the right kernel was kept at its site, growing",
            "share",
            [mean(_keeps(run, answer) for run in growing)],
        )
        yield figure(
            f"accuracy-{name}",
            f"{name}: test accuracy, growing",
            "share",
            [run.test_accuracy for run in growing],
        )
        noise = [stdev(arm) for run in choosing for arm in run.rewards.values() if len(arm) > 1]
        if noise:
            yield figure(
                f"noise-{name}", f"{name}: standard deviation of an arm's rewards", "reward", noise
            )


def trained(
    stack: Stack,
    workload: Workload,
    setting: PolicySetting,
    mode: str,
    selection: Selection,
    seed: int,
) -> TrainedRun:
    """Train one run and return it."""
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

    result = train_task(task, seed, workload.epochs, attach)
    growth = growths[0]
    return TrainedRun(
        mode=mode,
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
    """Yield the applied operations of a kind as (step, site, blueprint)."""
    run_history = growth.run_history
    for decision in run_history.decisions:
        outcome = run_history.outcomes.get(decision.decision_id)
        for operation in decision.operations if outcome else ():
            if isinstance(operation, kind) and outcome is not None:
                name = run_history.kernels[operation.kernel_id].blueprint_id
                yield outcome.step, operation.site, name


def _rewards(growth: Growth) -> dict[str, list[float]]:
    """Return the rewards of each arm, computed from the candidates of successive decisions.

    The tasks have few arms, so that decisions list all of them.
    """
    rewards: dict[str, list[float]] = {}
    for decision in growth.run_history.decisions:
        assert decision.other_candidates is None, "more arms than a decision lists"
        for arm in decision.candidates:
            known = rewards.setdefault(f"{arm.site}/{arm.blueprint_id}", [])
            if arm.mean is not None and arm.pulls == len(known) + 1:
                known.append(round(arm.mean * arm.pulls - sum(known), 6))
    return {arm: known for arm, known in rewards.items() if known}


def _keeps(run: TrainedRun, answer: KnownAnswerTask) -> bool:
    return any((site, name) == (answer.site, answer.blueprint_id) for _, site, name in run.kept)


def _third(planted: Sequence[Any], third: int) -> Sequence[Any]:
    count = len(planted)
    return planted[third * count // 3 : (third + 1) * count // 3]
