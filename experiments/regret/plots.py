"""Plots of `docs/regret.md`: regret over trials, one plot per question."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.kept import EXPERIMENTS as PACKAGE
from benchmarks.kept import kept_result
from benchmarks.origin import ROOT
from benchmarks.plots import STYLE, svg
from benchmarks.result import Result
from experiments.regret.measure import POINTS
from experiments.regret.setups import EXPERIMENTS

FOLDER: Final = ROOT / "docs" / "regret"
NAME: Final = "regret"


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves by (bandit, policy), with their labels."""

    title: str
    curves: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels side by side."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _of(world: str, *agents: str) -> dict[tuple[str, str], str]:
    return {(world, agent): agent for agent in agents}


_CONTEXTUAL: Final = ("linear-thompson", "thompson-gaussian", "random")
_MEMORIES: Final = ("memory-none", "memory-like", "memory-unlike")

PICTURES: Final = (
    Picture(
        "bernoulli",
        "Regret over 5,000 trials of Bernoulli arms, and over 1,000 of arms with little noise",
        (
            Panel("Bernoulli arms", _of("bernoulli", "ucb1", "kl-ucb", "thompson-beta")),
            Panel(
                "little noise",
                _of("gaussian", "ucb1", "kl-ucb", "thompson-beta", "thompson-gaussian"),
            ),
        ),
    ),
    Picture(
        "drift",
        "Regret where means rotate every 400 trials, and where an arm is best for a while",
        (
            Panel("UCB", _of("drift", "ucb1", "sliding-ucb", "discounted-ucb")),
            Panel(
                "Thompson sampling",
                _of("drift", "thompson-beta", "sliding-thompson", "discounted-thompson"),
            ),
            Panel(
                "best for a while",
                _of("switch", "ucb1", "sliding-ucb", "thompson-beta", "sliding-thompson"),
            ),
        ),
    ),
    Picture(
        "context",
        "Regret of a policy with features, and of policies without",
        (
            Panel("informative features", _of("context", *_CONTEXTUAL)),
            Panel("uninformative features", _of("context-none", *_CONTEXTUAL)),
        ),
    ),
    Picture(
        "memory",
        "Regret without memory, with memory of a similar or dissimilar family, and with priors",
        (
            Panel(
                "memory",
                {(world, "thompson-gaussian"): world.partition("-")[2] for world in _MEMORIES},
            ),
            Panel(
                "10,000 arms",
                {
                    ("many", "thompson-gaussian"): "without priors",
                    ("many-priors", "thompson-gaussian"): "with priors",
                },
            ),
        ),
    ),
)


def file_of(picture: Picture) -> Path:
    """Return the file of a plot."""
    return FOLDER / f"{picture.name}.svg"


def draw() -> dict[Path, str]:
    """Return all plots as SVG, by file.

    Raises:
        BenchmarkError: no result is saved, or it is from a quick run.
    """
    result = kept_result(NAME, PACKAGE)
    return {file_of(picture): _drawn(picture, result) for picture in PICTURES}


def _drawn(picture: Picture, result: Result) -> str:
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(7.2, 2.8), layout="constrained")
        axes = drawing.subplots(1, len(picture.panels))
        for ax, panel in zip(axes, picture.panels, strict=True):
            _plot(ax, panel, result)
    return svg(drawing)


def _plot(ax: Axes, panel: Panel, result: Result) -> None:
    for (world, agent), label in panel.curves.items():
        trials = _trials(world, agent)
        points = [trials * (index + 1) // POINTS for index in range(POINTS)]
        ax.plot([0, *points], [0.0, *result.curves[f"{world}/{agent}"]], label=label, lw=1.4)
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel("trials")
    ax.set_ylabel("regret")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=8)


def _trials(world: str, agent: str) -> int:
    return next(
        experiment.trials
        for experiment in EXPERIMENTS
        if experiment.world == world and agent in experiment.agents
    )
