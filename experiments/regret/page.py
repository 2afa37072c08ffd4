"""Render `docs/regret.md` and its plots from the saved result."""

from typing import Final

from benchmarks.kept import EXPERIMENTS as PACKAGE
from benchmarks.kept import kept_result
from benchmarks.origin import ROOT
from benchmarks.page import (
    commit_of,
    goal_of,
    image,
    machine_of,
    middle_half,
    number,
    table,
    yes_or_no,
)
from benchmarks.result import Result
from esper.bandit import POLICIES
from experiments.regret.plots import PICTURES, draw, file_of
from experiments.regret.setups import (
    EXPERIMENTS,
    RATIOS,
    REFERENCES,
    WINDOW,
    checkpoint_key,
)
from experiments.regret.worlds import (
    BLUEPRINTS,
    CONTEXT_SIGMA,
    EARLIER_RUNS,
    EARLIER_TRIALS,
    FAMILY_SIGMA,
    MANY,
    MEANS,
    PHASE_TRIALS,
    SIGMA,
)

DOCUMENT: Final = ROOT / "docs" / "regret.md"
NAME: Final = "regret"

HEAD: Final = """# Regret

Rendered by `python -m experiments pages` from `experiments/results/regret.json`; do not edit. To
measure again: `python -m experiments regret --save` (about 15 minutes on two cores), then render.

Regret is the best arm's mean reward less the mean reward of the chosen arm, summed over trials.
Policies, tracker, priors and memory are the production code; the arms are simulated, so that the
best arm is known. All policies get the same random rewards. Figures are means over seeds, with the
middle half of the means over bootstrap resamples of the seeds in brackets.

## Goals

A goal marked *always* holds in every resample.
"""

WORLD_TEXTS: Final = {
    "bernoulli": (
        "Bernoulli arms",
        f"Five arms with rewards of 0 or 1, means {', '.join(map(str, MEANS))}, played by our "
        "policies and by the libraries' policies. MABWiser gets every arm once at the start, "
        "because it never tries arms without a reward.",
    ),
    "gaussian": (
        "Little noise",
        f"The same means; rewards have a standard deviation of {SIGMA} only, like those of paired "
        "differences. `thompson-gaussian` knows it (`sigma`); the others allow for any reward in "
        "[0, 1].",
    ),
    "drift": (
        "Drifting arms",
        f"Five arms whose means rotate every {PHASE_TRIALS} trials.",
    ),
    "switch": (
        "An arm that is best for a while",
        "The bandit of Garivier and Moulines (ALT 2011, section 5), half as long: three arms, one "
        "with mean 0.4, which is 0.9 from trial 1,500 to 2,500, then 0.4 again. The window has "
        f"their length for this number of trials, {int(WINDOW['window'])} trials.",
    ),
    "many": (
        f"{MANY:,} arms",
        f"Means have a standard deviation of {CONTEXT_SIGMA} around 0.5, rewards of {SIGMA} around "
        "the means. No priors.",
    ),
    "many-priors": (
        f"{MANY:,} arms with priors",
        "The same with a prior for each arm that has the weight and the precision of one trial.",
    ),
    "context": (
        "Informative features",
        "Six blueprints at each of ten sites. Means are a linear function of the features of the "
        "production code (depth, kind, gradient, costs, category), with new weights for each seed.",
    ),
    "context-none": (
        "Uninformative features",
        "The same, but means are independent of the features.",
    ),
    "memory-none": (
        "No memory",
        f"{BLUEPRINTS} blueprints at a site; means have a standard deviation of {CONTEXT_SIGMA}, "
        f"rewards of {SIGMA}.",
    ),
    "memory-like": (
        "Memory of a similar family",
        f"The same, starting from the memory of {EARLIER_RUNS} runs of {EARLIER_TRIALS} trials "
        f"each, whose means are within about {FAMILY_SIGMA} of these.",
    ),
    "memory-unlike": (
        "Memory of a dissimilar family",
        "The same, but other blueprints were good in the earlier runs.",
    ),
}


def write() -> None:
    """Write the document and its plots."""
    DOCUMENT.write_text(render())
    for file, plot in draw().items():
        file.write_text(plot)


def render() -> str:
    """Return the document.

    Raises:
        BenchmarkError: no result is saved, or it lacks a figure.
    """
    result = kept_result(NAME, PACKAGE)
    worlds = dict.fromkeys(experiment.world for experiment in EXPERIMENTS)
    sections = [HEAD, _goals(result), _plots()]
    sections += [_world(world, result) for world in worlds]
    sections += _not_played()
    return "\n".join([*sections, _times(result), _origin(result)])


def _goals(result: Result) -> str:
    keys = [f"{agent}-over-reference" for agent in REFERENCES]
    keys += [comparison.key for comparison in RATIOS]
    rows = []
    for figure in map(result.figure, keys):
        always = figure.goal is not None and figure.goal.of == "worst"
        rows.append(
            (
                figure.title,
                f"**{number(figure.median)}** ({middle_half(figure)})",
                f"{goal_of(figure)}, always" if always else goal_of(figure),
                yes_or_no(figure.reached),
            )
        )
    return table(("regret ÷ regret", "measured", "goal", "reached"), rows)


def _plots() -> str:
    lines = [
        f"{image(picture.title, str(file_of(picture).relative_to(DOCUMENT.parent)))}\n"
        for picture in PICTURES
    ]
    return "\n".join(lines)


def _world(world: str, result: Result) -> str:
    title, text = WORLD_TEXTS[world]
    experiments = [experiment for experiment in EXPERIMENTS if experiment.world == world]
    trials = sorted({trial for experiment in experiments for trial in experiment.checkpoints})
    rows = [
        (
            f"`{agent}`{_parameters(spec.params) if spec else ''}",
            *(
                _value(result, world, agent, trial) if trial in experiment.checkpoints else ""
                for trial in trials
            ),
        )
        for experiment in experiments
        for agent, spec in experiment.agents.items()
    ]
    head = ("policy", *(f"{trial:,} trials" for trial in trials))
    return f"## {title}\n\n{text}\n\n{table(head, rows)}"


def _not_played() -> list[str]:
    """Return a section with the policies that play no bandit; empty if all play."""
    played = {agent for experiment in EXPERIMENTS for agent in experiment.agents}
    names = [f"`{name}`" for name in POLICIES if name not in played]
    return [f"## Not played\n\n{', '.join(names)}\n"] if names else []


def _parameters(params: dict[str, float]) -> str:
    if not params:
        return ""
    return f" ({', '.join(f'{name} {value:g}' for name, value in params.items())})"


def _value(result: Result, world: str, agent: str, trial: int) -> str:
    figure = result.figure(checkpoint_key(world, agent, trial))
    return f"{number(figure.median)} ({middle_half(figure)})"


def _times(result: Result) -> str:
    prefix = "time-"
    rows = [
        (f"`{figure.key.removeprefix(prefix)}`", number(figure.median), number(figure.p90))
        for figure in result.figures
        if figure.key.startswith(prefix)
    ]
    return (
        "## Time\n\nMicroseconds to choose among five arms and to learn from one trial, in one "
        "process; our policies use the tracker of a run, which keeps more than a mean.\n\n"
        + table(("policy", "median", "p90"), rows)
    )


def _origin(result: Result) -> str:
    seeds = result.parameters["seeds"]
    return f"Measured at commit {commit_of(result)}, {seeds} seeds; {machine_of(result)}.\n"
