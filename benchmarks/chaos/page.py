"""Render `docs/chaos.md` and its timeline from the saved result."""

from collections import Counter, defaultdict
from statistics import median
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.chaos.probes import LIMIT_S
from benchmarks.goals import GOALS
from benchmarks.kept import kept_result
from benchmarks.origin import ROOT
from benchmarks.page import (
    commit_of,
    goal_of,
    image,
    machine_of,
    middle_half,
    number,
    pairs,
    table,
    with_unit,
    yes_or_no,
)
from benchmarks.plots import STYLE, svg
from benchmarks.result import Result

DOCUMENT: Final = ROOT / "docs" / "chaos.md"
TIMELINE: Final = ROOT / "docs" / "figures" / "chaos.svg"
NAME: Final = "chaos"
ENDINGS: Final = ("SIGKILL", "SIGTERM")

HEAD: Final = """# Faults at every process

Rendered by `python -m benchmarks figures` from `benchmarks/results/chaos.json`; do not edit. To
measure again: `python -m benchmarks chaos --save` (half an hour), then render. `make chaos-quick`
takes three minutes.

A local stack under the supervisor of `esper up`: Kafka, Redis, PostgreSQL, compile workers, bandit
workers, and trainers that resume from checkpoints. At random times a random process gets SIGKILL,
SIGTERM or SIGSTOP, the wall clocks of all workers and trainers jump by up to half an hour, Redis
has no memory left, or PostgreSQL no disk. Each second a client publishes a blueprint, and a run
sends a report after the answer to its last one. Trainers run at the lowest priority: in use they
have machines of their own. `benchmarks/chaos` has the code.

What must hold at the end, or the command fails: every blueprint is ready or rejected, and not both;
no decision was applied twice; every closed run audits as identical; every target recovered; no
process is left.

An *outage* is the time in which the only instance of something is away, or all of them: Kafka,
Redis, PostgreSQL or its disk, all workers of a kind.
"""


def write() -> None:
    """Write the document and its plot."""
    DOCUMENT.write_text(render())
    TIMELINE.write_text(draw())


def render() -> str:
    """Return the document.

    Raises:
        BenchmarkError: no result is saved, or it is from a quick run.
    """
    result = kept_result(NAME)
    return "\n".join(
        [
            HEAD,
            f"Measured at commit {commit_of(result)}; {machine_of(result)}; "
            f"{pairs(result.parameters)}.\n",
            f"{image('Faults, outages and answers over time', 'figures/chaos.svg')}\n",
            f"## Faults\n\n{_faults(result)}",
            f"## Figures\n\n{_figures(result)}",
            *_missed(result),
        ]
    )


def draw() -> str:
    """Return the timeline as SVG.

    Raises:
        BenchmarkError: no result is saved, or it is from a quick run.
    """
    result = kept_result(NAME)
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(9.0, 6.4))
        faults, answers, memory = drawing.subplots(3, 1, sharex=True, height_ratios=(1.3, 1.0, 0.8))
        # Fixed: the solver of matplotlib's layouts gives other last digits each time.
        drawing.subplots_adjust(left=0.13, right=0.99, top=0.96, bottom=0.07, hspace=0.28)
        _plot_faults(faults, result)
        _plot_answers(answers, result)
        _plot_memory(memory, result)
    return svg(drawing)


def _faults(result: Result) -> str:
    """Return the number of faults by target and kind, and how long recovery took."""
    counts = Counter((_kind(row), str(row["fault"])) for row in result.runs)
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in result.runs:
        took[_kind(row), str(row["fault"])].append(float(row["recovery_s"]))
    rows = [
        (
            *key,
            str(counts[key]),
            f"{number(median(took[key]))} s" if key[1] in ENDINGS else "",
            f"{number(max(took[key]))} s" if key[1] in ENDINGS else "",
        )
        for key in sorted(counts)
    ]
    return table(("target", "fault", "times", "median until it answers again", "worst"), rows)


def _missed(result: Result) -> list[str]:
    """Return why goals are missed."""
    missed = {figure.key for figure in result.figures if figure.reached is False}
    return [
        f"\nNot reached, {row.title}: {row.reason}."
        for row in GOALS
        if row.name == NAME and missed & set(row.figures)
    ]


def _kind(row: dict[str, object]) -> str:
    kind, _, suffix = str(row["target"]).partition("-")
    return kind if suffix.isdigit() else str(row["target"])


def _figures(result: Result) -> str:
    rows = [
        (
            figure.title,
            with_unit(figure.median, figure.unit),
            middle_half(figure) if figure.n > 1 else "",
            number(figure.worst),
            str(figure.n),
            goal_of(figure),
            yes_or_no(figure.reached),
        )
        for figure in result.figures
    ]
    return table(("figure", "median", "middle half", "worst", "n", "goal", "reached"), rows)


def _plot_faults(ax: Axes, result: Result) -> None:
    targets = sorted({str(row["target"]) for row in result.runs}, reverse=True)
    for row in result.runs:
        at_s, took_s = float(row["at_s"]), float(row["recovery_s"])
        colour = {"SIGKILL": "#d55e00", "SIGTERM": "#e69f00", "SIGSTOP": "#0072b2"}
        ax.barh(
            targets.index(str(row["target"])),
            max(took_s, 2.0),  # at least visible
            left=at_s,
            height=0.6,
            color=colour.get(str(row["fault"]), "#888888"),
        )
    ax.set_yticks(range(len(targets)), targets)
    ax.set_title("away, from the fault until it answers again", fontsize=9)
    _shade_outages(ax, result)


def _plot_answers(ax: Axes, result: Result) -> None:
    for kind in ("blueprint", "report"):
        answer_s = result.curves[f"{kind}-answer"]
        ax.plot(result.curves[f"{kind}-sent"], answer_s, ".", markersize=2.5, label=kind)
    ax.axhline(LIMIT_S, color="#888888", lw=0.8, ls="--")
    ax.set_yscale("log")
    ax.set_ylabel("s")
    ax.set_title(f"until a probe is answered (limit {LIMIT_S:g} s; outages shaded)", fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    _shade_outages(ax, result)


def _plot_memory(ax: Axes, result: Result) -> None:
    kinds = sorted(name.removeprefix("memory-") for name in result.curves if "memory-" in name)
    for kind in kinds:
        ax.plot(result.curves[f"at-{kind}"], result.curves[f"memory-{kind}"], label=kind, lw=1.0)
    ax.set_yscale("log")
    ax.set_ylabel("MiB")
    ax.set_xlabel("seconds")
    ax.set_title("resident memory of a process, in the mean", fontsize=9)
    ax.legend(frameon=False, fontsize=7, ncols=3)


def _shade_outages(ax: Axes, result: Result) -> None:
    spans = zip(result.curves["outage-from"], result.curves["outage-to"], strict=True)
    for begin_s, end_s in spans:
        ax.axvspan(begin_s, end_s, color="#cccccc", alpha=0.5, lw=0)
