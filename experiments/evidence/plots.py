"""Plots of `docs/evidence.md`: test accuracy of each control, one plot per teacher."""

from collections.abc import Sequence
from statistics import mean
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing

from benchmarks.plots import STYLE, svg
from experiments.evidence.claims import BANDIT, ResultTable, points
from experiments.evidence.statistics import interval

OURS, THEIRS = "#d55e00", "#0072b2"
INCHES: Final = 0.32
"""Height of the row of one control."""


def draw(task: str, results: ResultTable, controls: Sequence[str]) -> str:
    """Return the plot of a teacher as SVG: a dot per run, the mean and its interval."""
    present = [control for control in controls if results.of(task, control)]
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(7.2, 0.9 + INCHES * len(present)), layout="constrained")
        ax = drawing.subplots()
        for y, control in enumerate(present):
            accuracy = [points(row) for row in results.of(task, control).values()]
            low, high = interval(accuracy)
            color = OURS if control.startswith(BANDIT) else THEIRS
            ax.plot(accuracy, [y] * len(accuracy), "o", color=color, ms=3, alpha=0.25, mew=0)
            ax.plot([low, high], [y, y], color=color, lw=2)
            ax.plot([mean(accuracy)], [y], "o", color=color, ms=5)
        ax.set_yticks(range(len(present)), present)
        ax.invert_yaxis()
        ax.set_xlabel("test accuracy, points: runs, mean, 95 % interval")
    return svg(drawing)
