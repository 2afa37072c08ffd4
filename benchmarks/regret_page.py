"""Rendering `docs/regret.md`: what each policy loses while it learns, from the kept result."""

from benchmarks.bandit_worlds import (
    BLUEPRINTS,
    CONTEXT_SIGMA,
    EARLIER_RUNS,
    EARLIER_TRIALS,
    KINSHIP,
    MANY,
    MEANS,
    PHASE_TRIALS,
    SIGMA,
)
from benchmarks.figures import kept_result, number, table
from benchmarks.origin import ROOT
from benchmarks.regret import COMPARISONS, CONTESTS, REFERENCES, WINDOW, stated_key
from benchmarks.regret_plots import PICTURES, file_of
from benchmarks.result import Result

DOCUMENT = ROOT / "docs" / "regret.md"
NAME = "regret"

HEAD = """# Regret

Rendered by `python -m benchmarks figures` from `benchmarks/results/regret.json`; do not edit. To
measure anew: `python -m benchmarks regret --save` (about 15 minutes on two cores), then render.

Regret is what is lost by not choosing the best arm each time: the best arm's mean reward less that
of the arm tried, summed over trials. Policies, tracker, priors and memory are those that decide in
a run; the arms are made up, so that the best is known. Every policy meets the same luck. Figures
are means over seeds, in brackets the middle half of such means when the seeds are drawn again
(bootstrap).

## Goals

A comparison with *surely* holds in every one of the resamples.
"""

WORDS = {
    "bernoulli": (
        "Bernoulli arms",
        f"Five arms that yield 0 or 1, with means {', '.join(map(str, MEANS))}. Beside ours, the "
        "libraries; MABWiser is given every arm once, for it never tries arms that it has not met "
        "at first.",
    ),
    "gaussian": (
        "Little noise",
        f"The same means, rewards that spread by {SIGMA} only, as those of paired differences do. "
        "`thompson-gaussian` is told so (`sigma`); the others allow for any reward in [0, 1].",
    ),
    "drift": (
        "Drifting arms",
        f"Five arms that change places, all at once, every {PHASE_TRIALS} trials.",
    ),
    "switch": (
        "An arm that is the best for a while",
        "Garivier and Moulines' own bandit (ALT 2011, section 5), half as long: three arms, of "
        "which one is worth 0.4, from trial 1,500 to 2,500 0.9, then 0.4 again. Windows are as "
        "long as theirs for so many trials, "
        f"{int(WINDOW['window'])} trials.",
    ),
    "many": (
        f"{MANY:,} arms",
        f"Means spread by {CONTEXT_SIGMA} around 0.5, rewards by {SIGMA} around the means. "
        "Nothing is known beforehand.",
    ),
    "many-priors": (
        f"{MANY:,} arms with priors",
        "The same with a prior for each arm that counts as one trial and is as exact as one.",
    ),
    "context": (
        "Features that inform",
        "Six blueprints at each of ten sites. Means follow from the features of the production "
        "code (depth, kind, gradient, costs, category) by weights drawn anew for each seed.",
    ),
    "context-none": ("Features that do not", "The same, means have nothing to do with features."),
    "memory-none": (
        "No memory",
        f"{BLUEPRINTS} blueprints at a site, means spread by {CONTEXT_SIGMA}, rewards by {SIGMA}.",
    ),
    "memory-like": (
        "Memory of a like family",
        f"The same after {EARLIER_RUNS} runs of {EARLIER_TRIALS} trials each, with means within "
        f"about {KINSHIP} of these, whose memory this run starts from.",
    ),
    "memory-unlike": (
        "Memory of an unlike family",
        "The same, but in the earlier runs other blueprints were the good ones.",
    ),
}


def render() -> str:
    """Return the whole document.

    Raises:
        BenchmarkError: there is no result, or it lacks a figure.
    """
    result = kept_result(NAME)
    worlds = dict.fromkeys(contest.world for contest in CONTESTS)
    sections = [HEAD, _goals(result), _pictures()]
    sections += [_world(world, result) for world in worlds]
    return "\n".join([*sections, _times(result), _origin(result)])


def _goals(result: Result) -> str:
    keys = [f"{player}-over-reference" for player in REFERENCES]
    keys += [each.key for each in COMPARISONS]
    rows = []
    for key in keys:
        figure = result.figure(key)
        low, high = map(number, figure.spread)
        goal = figure.goal
        limit = "" if goal is None else f"≤ {number(goal.limit)}"
        rows.append(
            (
                figure.what,
                f"**{number(figure.median)}** ({low} to {high})",
                f"{limit}, surely" if goal is not None and goal.of == "worst" else limit,
                {True: "yes", False: "no", None: ""}[figure.reached],
            )
        )
    return table(("regret ÷ regret", "measured", "goal", "reached"), rows)


def _pictures() -> str:
    lines = [
        f"![{picture.title}]({file_of(picture).relative_to(DOCUMENT.parent)})\n"
        for picture in PICTURES
    ]
    return "\n".join(lines)


def _world(world: str, result: Result) -> str:
    title, what = WORDS[world]
    contests = [contest for contest in CONTESTS if contest.world == world]
    trials = sorted({trial for contest in contests for trial in contest.stated})
    rows = [
        (
            f"`{player}`{_parameters(spec.params) if spec else ''}",
            *(
                _value(result, world, player, trial) if trial in contest.stated else ""
                for trial in trials
            ),
        )
        for contest in contests
        for player, spec in contest.players.items()
    ]
    head = ("policy", *(f"{trial:,} trials" for trial in trials))
    return f"## {title}\n\n{what}\n\n{table(head, rows)}"


def _parameters(params: dict[str, float]) -> str:
    if not params:
        return ""
    return f" ({', '.join(f'{name} {value:g}' for name, value in params.items())})"


def _value(result: Result, world: str, player: str, trial: int) -> str:
    figure = result.figure(stated_key(world, player, trial))
    low, high = map(number, figure.spread)
    return f"{number(figure.median)} ({low} to {high})"


def _times(result: Result) -> str:
    prefix = "time-"
    rows = [
        (f"`{each.key.removeprefix(prefix)}`", number(each.median), number(each.p90))
        for each in result.figures
        if each.key.startswith(prefix)
    ]
    return (
        "## Time\n\nMicroseconds to choose among five arms and to learn from one trial, one "
        "process; ours with the tracker of a run, which keeps more than a mean.\n\n"
        + table(("policy", "median", "p90"), rows)
    )


def _origin(result: Result) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    changed = ", with changes not in it" if result.modified else ""
    return (
        f"Measured at commit {result.commit}{changed}, {result.parameters['seeds']} seeds; "
        f"{machine}.\n"
    )
