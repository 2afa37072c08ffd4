"""Drawing what `docs/regret.md` shows: regret over trials, a picture for each question."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.figures import kept_result
from benchmarks.origin import ROOT
from benchmarks.regret import CONTESTS, POINTS
from benchmarks.result import Result

FOLDER: Final = ROOT / "docs" / "regret"
NAME: Final = "regret"

STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "esper",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"]
    ),
}
"""Text as text, and nothing of chance or of the day, so that the same result gives the same bytes.
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves (bandit, policy) with what each is called."""

    title: str
    curves: Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels side by side."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _of(world: str, *players: str) -> dict[tuple[str, str], str]:
    return {(world, player): player for player in players}


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
        "Regret where arms change places every 400 trials, and where one is the best for a while",
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
        "Regret of a policy that sees features, and of one that does not",
        (
            Panel("features inform", _of("context", *_CONTEXTUAL)),
            Panel("features do not", _of("context-none", *_CONTEXTUAL)),
        ),
    ),
    Picture(
        "memory",
        "Regret without memory, and with that of a like or an unlike family; with priors",
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
    """Return where a picture is kept."""
    return FOLDER / f"{picture.name}.svg"


def draw() -> dict[Path, str]:
    """Return all pictures as SVG, by file.

    Raises:
        BenchmarkError: no result is kept, or it is of a quick run.
    """
    result = kept_result(NAME)
    return {file_of(picture): _drawn(picture, result) for picture in PICTURES}


def _drawn(picture: Picture, result: Result) -> str:
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(7.2, 2.8), layout="constrained")
        axes = drawing.subplots(1, len(picture.panels))
        for ax, panel in zip(axes, picture.panels, strict=True):
            _plot(ax, panel, result)
        written = io.StringIO()
        drawing.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())


def _plot(ax: Axes, panel: Panel, result: Result) -> None:
    for (world, player), label in panel.curves.items():
        trials = _trials(world, player)
        points = [trials * (place + 1) // POINTS for place in range(POINTS)]
        ax.plot([0, *points], [0.0, *result.curves[f"{world}/{player}"]], label=label, lw=1.4)
    ax.set_title(panel.title, fontsize=9)
    ax.set_xlabel("trials")
    ax.set_ylabel("regret")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=8)


def _trials(world: str, player: str) -> int:
    return next(
        contest.trials
        for contest in CONTESTS
        if contest.world == world and player in contest.players
    )
