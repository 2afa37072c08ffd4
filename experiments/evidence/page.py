"""Render `docs/evidence.md` and its plots from the committed rows."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Final

from benchmarks.origin import ROOT
from benchmarks.page import image, table
from esper.tasks import TEACHERS
from experiments.evidence import baselines_section, haystack_section, race_section
from experiments.evidence.claims import (
    BANDIT,
    FIXED,
    NULL,
    ORACLE,
    RIGHT_SHARE,
    ClaimResult,
    ResultTable,
    claim_results,
    points,
)
from experiments.evidence.formatting import average, gain, median_of
from experiments.evidence.plots import draw
from experiments.growth import controls
from experiments.growth.known_answer import NAME, cases
from experiments.growth.rows import Ledger, RunRow

DOCUMENT: Final = ROOT / "docs" / "evidence.md"
PLOTS: Final = ROOT / "docs" / "evidence"
UNSEEN_FROM: Final = 20
"""First seed that no earlier version of the method was measured on."""

HEAD: Final = """# Evidence

Rendered by `python -m experiments pages` from `experiments/results/`; do not edit.

Does growth help where the missing part of a network is known? A teacher labels samples by a
structure that its small host lacks; of eight blueprints at three sites, one kernel supplies it. On
the null teacher nothing is missing, and every kernel is useless or harmful. Runs of one seed share
teacher, samples, initial weights and batches under every control, so that equal seeds are pairs.
Nothing is chosen by test samples: kernels are judged on probe samples.

To run again: `python -m experiments known-answer --seeds 40`. The command runs the cases that have
no row in `experiments/results/known-answer.csv`, which has one row per run, failed runs included.
"""

CONTROLS: Final[Mapping[str, str]] = {
    "host": "the host without growth",
    "wide": "a host just wide enough for the parameters of the host with the right kernel",
    "static-right": "the right kernel from the first step on",
    "static-final": "the final network of the bandit's run of its seed, from the first step on",
    "random": "one random kernel, planted at a third of the run and kept",
    "periodic": "every 100 steps the next blueprint of the list at the next site, kept; the seed "
    "sets the start of the list",
    "random-policy": "the whole system with random choices in place of the bandit's",
    ORACLE: "the best fixed kernel in hindsight, or none: each planted at a third of a separate "
    "run, chosen by probe loss",
    BANDIT: "the bandit, without memory of other runs",
    "bandit-memory": "the bandit, with the memory of five earlier runs on other seeds",
}
"""Controls and their descriptions, in the order of the tables."""


def write() -> None:
    """Write the page and its plots."""
    rows = Ledger.of(NAME).rows
    results = _results(rows)
    PLOTS.mkdir(exist_ok=True)
    DOCUMENT.write_text(_page(results, rows))
    for task in TEACHERS:
        (PLOTS / f"{task}.svg").write_text(draw(task, results, tuple(CONTROLS)))


def render() -> str:
    """Return the page."""
    rows = Ledger.of(NAME).rows
    return _page(_results(rows), rows)


def _results(rows: Iterable[RunRow]) -> ResultTable:
    return ResultTable(rows, {task: _arms(task) for task in TEACHERS})


def _arms(task: str) -> list[str]:
    return [case.control for case in cases(task, seeds=1) if case.control.startswith(FIXED)]


def _page(results: ResultTable, rows: Sequence[RunRow]) -> str:
    unseen = _results(row for row in rows if row.seed >= UNSEEN_FROM)
    sections = [HEAD, goals(results), _unseen(unseen), _method(), _controls()]
    sections += [_teacher(task, results) for task in TEACHERS]
    sections += [_failures(rows), _origin(rows)]
    sections += [haystack_section.render(), *baselines_section.sections(), race_section.render()]
    return "\n".join(sections)


def _method() -> str:
    """Return how decisions are made in the bandit's runs."""
    selection = controls.BANDIT.selection
    return f"""\
## Method

The bandit's runs plant nothing before the host's probe loss has plateaued. Then up to
{selection.limits.max_on_trial} kernels are on trial together, up to {controls.SLOTS} per site, \
which share the site's alpha. Each
kernel learns for {selection.warmup_reports} reports of {controls.REPORT_EVERY} steps, during \
which only harm counts, and is
judged by the next {selection.trial_reports} reports: a kernel is kept if it lowers the probe loss \
by {selection.keep_share:.0%} and by
{selection.keep_first_share:.0%} of the first probe loss of the run. These settings
(`experiments/growth/controls.py`) were tuned on seeds from 1000 on, none of which is reported.
`random-policy` has the same settings without the policy: the bandit's lead over it is the gain of
choosing, the rest is that of the tournament. Kernels that are on trial when a run ends stay in its
network.
"""


def goals(results: ResultTable) -> str:
    """Return the section with the goals as a table, and the number reached."""
    lines = _goals(results)
    head = ("teacher", "bandit against", "goal", "measured", "p", "pairs", "reached")
    return (
        f"## Goals\n\n{_summary(lines)}\n\nPoints of test accuracy, with bootstrap 95 % "
        "intervals of the mean of paired\ndifferences. p is that of a sign-flip test, corrected "
        "by Holm over all claimed gains. A gain is\nreached if the mean meets the goal, the "
        "interval excludes 0 and p is at most 0.05; any other goal\nif the mean meets it.\n\n"
        f"{table(head, lines)}"
    )


def _summary(goals: Sequence[Sequence[str]]) -> str:
    """Return how many goals in the lines of a table are reached."""
    reached = [line[-1] for line in goals]
    return (
        f"Of {len(reached)} goals, reached: {reached.count('yes')}, missed: "
        f"{reached.count('**no**')}, not measured: {reached.count('not run')}."
    )


def _goals(results: ResultTable) -> list[tuple[str, ...]]:
    lines = [_goal(result) for result in claim_results(results, TEACHERS)]
    return lines + [_right(task, results) for task in TEACHERS if task != NULL]


def _unseen(results: ResultTable) -> str:
    """Return the goals reached on the seeds that played no part in developing the method."""
    return (
        f"The seeds from {UNSEEN_FROM} on played no part in developing the method. On them alone:\n"
        f"{_summary(_goals(results))}\nEarlier versions were measured on the lower seeds, and "
        "`keep_first_share` was added because two of\nthose runs had kept a kernel on the null "
        "teacher.\n"
    )


def _goal(result: ClaimResult) -> tuple[str, ...]:
    claim, difference = result.claim, result.difference
    if difference is None:
        return (claim.task, claim.than, claim.goal, "", "", "0", "not run")
    return (
        claim.task,
        claim.than,
        claim.goal,
        gain(difference),
        "" if result.p is None else f"{result.p:.2g}",
        str(difference.pairs),
        "yes" if result.reached else "**no**",
    )


def _right(task: str, results: ResultTable) -> tuple[str, ...]:
    share, goal = results.right_share(task), f"≥ {RIGHT_SHARE:.0%}"
    title = "right site and blueprint in the network"
    if share is None:
        return (task, title, goal, "", "", "0", "not run")
    runs = str(len(results.of(task, BANDIT)))
    reached = "yes" if share >= RIGHT_SHARE else "**no**"
    return (task, title, goal, f"{share:.0%} of runs", "", runs, reached)


def _controls() -> str:
    return "## Controls\n\n" + table(("control", "description"), list(CONTROLS.items()))


def _teacher(task: str, results: ResultTable) -> str:
    answer = TEACHERS[task](0)
    missing = ""
    if answer.blueprint_id is not None:
        missing = f"; it lacks `{answer.blueprint_id}` at `{answer.site}`"
    lines = [_control(task, control, results) for control in CONTROLS if results.of(task, control)]
    head = (
        "control",
        "test accuracy",
        "bandit is better by",
        "right",
        "parameters",
        "train s",
        "probe s",
        "wait s",
        "compile s",
        "CPU s",
        "n",
    )
    return (
        f"## {task.capitalize()}\n\n{answer.task.summary.capitalize()}{missing}.\n\n"
        f"{image('Test accuracy of each control', f'evidence/{task}.svg')}\n\n{table(head, lines)}"
        f"\n{_kernels(task, results)}"
    )


def _control(task: str, control: str, results: ResultTable) -> tuple[str, ...]:
    rows = list(results.of(task, control).values())
    accuracy = [points(row) for row in rows]
    against = None if control == BANDIT else results.compare(task, BANDIT, control)
    share = results.right_share(task, control)
    return (
        f"`{control}`",
        average(accuracy),
        gain(against),
        "" if share is None else f"{share:.0%}",
        f"{median_of(row.params for row in rows):,.0f}",
        *(
            f"{median_of(getattr(row, part) for row in rows):.2g}"
            for part in ("train_s", "probe_s", "wait_s", "compile_s", "cpu_s")
        ),
        str(len(rows)),
    )


def _kernels(task: str, results: ResultTable) -> str:
    """Return a table of the mean accuracy with each kernel at each site."""
    sites = TEACHERS[task](0).task.sites
    arms = _arms(task)
    names = dict.fromkeys(arm.rpartition("/")[2] for arm in arms)
    lines = [
        (f"`{name}`", *(_mean_accuracy(results.of(task, f"{FIXED}{s}/{name}")) for s in sites))
        for name in names
    ]
    return (
        "One fixed kernel, planted at a third of the run: mean test accuracy (runs).\n\n"
        + table(("blueprint", *(f"at `{site}`" for site in sites)), lines)
    )


def _mean_accuracy(rows: Mapping[int, RunRow]) -> str:
    if not rows:
        return ""
    return f"{mean(points(row) for row in rows.values()):.1f} ({len(rows)})"


def _failures(rows: Sequence[RunRow]) -> str:
    failed = [row for row in rows if row.error]
    if not failed:
        return f"## Failures\n\nNone of {len(rows)} runs failed.\n"
    lines = [(row.task, row.control, str(row.seed), row.error.replace("|", "/")) for row in failed]
    head = ("teacher", "control", "seed", "error")
    return f"## Failures\n\n{len(failed)} of {len(rows)} runs failed:\n\n{table(head, lines)}"


def _origin(rows: Sequence[RunRow]) -> str:
    commits = ", ".join(sorted({row.commit for row in rows})) or "none"
    return (
        "Seconds are medians of wall time on a shared machine; CPU s is CPU time of the training "
        f"process. Measured with the code of commits {commits}.\n"
    )
