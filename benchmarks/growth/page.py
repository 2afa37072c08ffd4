"""Rendering `docs/evidence.md` from the rows that were kept, so that the two cannot differ."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Final

from benchmarks.figures import table
from benchmarks.growth import contest_page, controls, race_page
from benchmarks.growth.cells import average, gain, middle_of
from benchmarks.growth.claims import (
    BANDIT,
    FIXED,
    NULL,
    ORACLE,
    RIGHT_SHARE,
    Results,
    Verdict,
    points,
    verdicts,
)
from benchmarks.growth.known_answer import NAME, cases
from benchmarks.growth.plots import draw
from benchmarks.growth.rows import Ledger, Row
from benchmarks.origin import ROOT
from esper.tasks import TEACHERS

DOCUMENT: Final = ROOT / "docs" / "evidence.md"
PICTURES: Final = ROOT / "docs" / "evidence"
FRESH_FROM: Final = 20

HEAD: Final = """# Evidence

Rendered by `python -m benchmarks growth --page` from `benchmarks/results/growth/`; do not edit.

Whether growth helps, where it is known what a network lacks. A teacher labels samples by a
structure that its small host has not; of eight blueprints at three sites one kernel supplies it. On
the null teacher nothing is missing, and whatever is planted does harm or nothing. Runs of one seed
have the same teacher, samples, first weights and batches under every control, so that seeds are
pairs. Nothing is chosen by the test samples: kernels are judged on probe samples.

Again: `python -m benchmarks growth --suite known-answer --seeds 40`. It runs what has no row in
`benchmarks/results/growth/known-answer.csv`, which has one for every run, failures too.
"""

CONTROLS: Final[Mapping[str, str]] = {
    "host": "the host, which never grows",
    "wide": "a host as wide as has at least the parameters of the host with the right kernel",
    "static-right": "the right kernel from the first step on",
    "static-final": "what the bandit's run of the seed ended with, from the first step on",
    "random": "one kernel, drawn by chance, planted at a third of the run and kept",
    "periodic": "every 100 steps the next blueprint of the list at the next site, kept; the seed "
    "says where the list begins",
    "random-policy": "all of the machinery, with chance in the place of the bandit",
    ORACLE: "the best fixed kernel in hindsight, or none: each planted at a third of a run of its "
    "own, chosen by probe loss",
    BANDIT: "the bandit, which remembers no other run",
    "bandit-memory": "the bandit, with the memory of five earlier runs on other seeds",
}
"""In the order in which they are told."""


def write() -> None:
    """Write the page and its pictures."""
    rows = Ledger.of(NAME).rows
    results = _results(rows)
    PICTURES.mkdir(exist_ok=True)
    DOCUMENT.write_text(_page(results, rows))
    for task in TEACHERS:
        (PICTURES / f"{task}.svg").write_text(draw(task, results, tuple(CONTROLS)))


def render() -> str:
    """Return the whole page."""
    rows = Ledger.of(NAME).rows
    return _page(_results(rows), rows)


def _results(rows: Iterable[Row]) -> Results:
    return Results(rows, {task: _arms(task) for task in TEACHERS})


def _arms(task: str) -> list[str]:
    return [case.control for case in cases(task, seeds=1) if case.control.startswith(FIXED)]


def _page(results: Results, rows: Sequence[Row]) -> str:
    fresh = _results(row for row in rows if row.seed >= FRESH_FROM)
    sections = [HEAD, goals(results), _fresh(fresh), _deciding(), _controls()]
    sections += [_teacher(task, results) for task in TEACHERS]
    sections += [_failures(rows), _origin(rows)]
    return "\n".join([*sections, *contest_page.sections(), race_page.render()])


def _deciding() -> str:
    """Return how the runs of the bandit are decided."""
    how = controls.BANDIT.selection
    return (
        "## How it is decided\n\n"
        "The bandit's runs plant nothing before the probe loss of the host comes to a stand. Then "
        f"up to\n{how.limits.max_on_trial} kernels are on trial at once, up to {controls.SLOTS} at "
        f"a site, which share its alpha; each learns for {how.warmup_reports}\nreports of "
        f"{controls.REPORT_EVERY} steps, in which only harm counts, and is judged by the next "
        f"{how.trial_reports}: kept is what lowers the probe\nloss by {how.keep_share:.0%}, and by "
        f"{how.keep_first_share:.0%} of the first that the run measured. These figures\n"
        "(`benchmarks/growth/controls.py`) were found on seeds from 1000 on, of which none is "
        "reported.\n`random-policy` has all of that except the policy: what the bandit is better "
        "by there is what\nchoosing gives, the rest is the tournament's. What is on trial when a "
        "run ends stays in its network.\n"
    )


def goals(results: Results) -> str:
    """Return the goals as a table, and in words how many are reached."""
    lines = _goals(results)
    head = ("teacher", "bandit against", "goal", "measured", "p", "pairs", "reached")
    return (
        f"## Goals\n\n{_in_words(lines)}\n\nPoints of test accuracy, with bootstrap 95 % "
        "intervals of the mean of paired\ndifferences. p is of flipping signs of pairs, corrected "
        "by Holm over all gains claimed; a gain is\nreached where the interval excludes 0 and p is "
        f"at most 0.05, any other goal where the mean is.\n\n{table(head, lines)}"
    )


def _in_words(goals: Sequence[Sequence[str]]) -> str:
    """Return how many goals are reached, of those in the lines of a table."""
    reached = [line[-1] for line in goals]
    return (
        f"Of {len(reached)} goals, reached: {reached.count('yes')}, missed: "
        f"{reached.count('**no**')}, not measured: {reached.count('not run')}."
    )


def _goals(results: Results) -> list[tuple[str, ...]]:
    lines = [_goal(verdict) for verdict in verdicts(results, TEACHERS)]
    return lines + [_right(task, results) for task in TEACHERS if task != NULL]


def _fresh(results: Results) -> str:
    """Return what the seeds say of which none was looked at before the method was as it is."""
    told = _in_words(_goals(results))
    return (
        f"The seeds from {FRESH_FROM} on were used for nothing before. On them alone:\n{told}\nOn "
        "those below, earlier forms of the method were measured, and `keep_first_share` is there "
        "because\ntwo of them had kept a kernel on the null teacher.\n"
    )


def _goal(verdict: Verdict) -> tuple[str, ...]:
    claim, difference = verdict.claim, verdict.difference
    if difference is None:
        return (claim.task, claim.than, claim.goal, "", "", "0", "not run")
    return (
        claim.task,
        claim.than,
        claim.goal,
        gain(difference),
        "" if verdict.p is None else f"{verdict.p:.2g}",
        str(difference.pairs),
        "yes" if verdict.reached else "**no**",
    )


def _right(task: str, results: Results) -> tuple[str, ...]:
    share, goal = results.right_share(task), f"≥ {RIGHT_SHARE:.0%}"
    what = "right site and blueprint in the network"
    if share is None:
        return (task, what, goal, "", "", "0", "not run")
    runs = str(len(results.of(task, BANDIT)))
    reached = "yes" if share >= RIGHT_SHARE else "**no**"
    return (task, what, goal, f"{share:.0%} of runs", "", runs, reached)


def _controls() -> str:
    return "## Controls\n\n" + table(("control", "what it is"), list(CONTROLS.items()))


def _teacher(task: str, results: Results) -> str:
    answer = TEACHERS[task](0)
    lacks = "lacks nothing"
    if answer.blueprint_id is not None:
        lacks = f"lacks `{answer.blueprint_id}` at `{answer.site}`"
    lines = [_control(task, control, results) for control in CONTROLS if results.of(task, control)]
    head = (
        "control",
        "test accuracy",
        "the bandit is better by",
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
        f"## {task.capitalize()}\n\n{answer.task.summary.capitalize()}; it {lacks}.\n\n"
        f"![Test accuracy of each control](evidence/{task}.svg)\n\n{table(head, lines)}"
        f"\n{_kernels(task, results)}"
    )


def _control(task: str, control: str, results: Results) -> tuple[str, ...]:
    rows = list(results.of(task, control).values())
    accuracy = [points(row) for row in rows]
    against = None if control == BANDIT else results.compare(task, BANDIT, control)
    share = results.right_share(task, control)
    return (
        f"`{control}`",
        average(accuracy),
        gain(against),
        "" if share is None else f"{share:.0%}",
        f"{middle_of(row.params for row in rows):,.0f}",
        *(
            f"{middle_of(getattr(row, part) for row in rows):.2g}"
            for part in ("train_s", "probe_s", "wait_s", "compile_s", "cpu_s")
        ),
        str(len(rows)),
    )


def _kernels(task: str, results: Results) -> str:
    """Return what each kernel gives at each site, as mean accuracy of those seeds that were run."""
    sites = TEACHERS[task](0).task.sites
    arms = _arms(task)
    names = dict.fromkeys(arm.rpartition("/")[2] for arm in arms)
    lines = [
        (f"`{name}`", *(_mean_accuracy(results.of(task, f"{FIXED}{s}/{name}")) for s in sites))
        for name in names
    ]
    return (
        "One fixed kernel, planted at a third of the run (mean test accuracy, and runs):\n\n"
        + table(("blueprint", *(f"at `{site}`" for site in sites)), lines)
    )


def _mean_accuracy(rows: Mapping[int, Row]) -> str:
    if not rows:
        return ""
    return f"{mean(points(row) for row in rows.values()):.1f} ({len(rows)})"


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if row.error]
    if not failed:
        return f"## Failures\n\nNone of {len(rows)} runs failed.\n"
    lines = [(row.task, row.control, str(row.seed), row.error.replace("|", "/")) for row in failed]
    head = ("teacher", "control", "seed", "error")
    return f"## Failures\n\n{len(failed)} of {len(rows)} runs failed:\n\n{table(head, lines)}"


def _origin(rows: Sequence[Row]) -> str:
    commits = ", ".join(sorted({row.commit for row in rows})) or "none"
    return (
        "Seconds are medians of wall time, where other work may run beside; CPU s is the training "
        f"process's own. Measured of the code at: {commits}.\n"
    )
