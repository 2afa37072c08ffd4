"""Drawing what `docs/evidence.md` shows: test accuracy of each control, a picture a teacher."""

import io
from collections.abc import Sequence
from statistics import mean
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from benchmarks.growth.claims import BANDIT, Results, points
from benchmarks.growth.statistics import interval
from benchmarks.regret_plots import STYLE

OURS, THEIRS = "#d55e00", "#0072b2"
INCHES: Final = 0.32
"""The height of one control."""


def draw(task: str, results: Results, controls: Sequence[str]) -> str:
    """Return the picture of a teacher as SVG: every run as a dot, the mean with its interval."""
    present = [control for control in controls if results.of(task, control)]
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(7.2, 0.9 + INCHES * len(present)), layout="constrained")
        ax = drawing.subplots()
        for place, control in enumerate(present):
            accuracy = [points(row) for row in results.of(task, control).values()]
            low, high = interval(accuracy)
            color = OURS if control.startswith(BANDIT) else THEIRS
            ax.plot(accuracy, [place] * len(accuracy), "o", color=color, ms=3, alpha=0.25, mew=0)
            ax.plot([low, high], [place, place], color=color, lw=2)
            ax.plot([mean(accuracy)], [place], "o", color=color, ms=5)
        ax.set_yticks(range(len(present)), present)
        ax.invert_yaxis()
        ax.set_xlabel("test accuracy, points: runs, mean, 95 % interval")
        written = io.StringIO()
        drawing.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())
