"""The haystack: some 300 arms, one of which supplies what the host lacks."""

import pytest
import torch

from esper.seed import find_sites
from experiments.evidence.haystack_section import FEWEST, section
from experiments.growth.planting import KernelBuilder
from experiments.growth.rows import RunRow
from experiments.haystack.suite import cases, is_right
from experiments.haystack.tasks import RIGHT, SITES, TASKS, blueprints, family_of, haystack_task


@pytest.mark.parametrize("name", ["conv", "retrieval", "middle"])
def test_each_task_has_six_sites_300_arms_and_the_right_family_at_the_right_site(name: str) -> None:
    answer = haystack_task(name, seed=0)
    sample = answer.task.load().probe[0][:2]
    host = answer.task.host()
    sites = find_sites(host, answer.task.sites, sample, 1)
    assert tuple(sites) == SITES
    arms = KernelBuilder(blueprints()).arms(sites)
    assert len(arms) >= 300
    assert any(site == answer.site and family_of(kernel) in RIGHT[name] for site, kernel in arms)
    with torch.no_grad():
        assert host(sample).shape == (2, 8 if name == "retrieval" else 10)


def test_only_the_right_family_at_the_right_site_is_right() -> None:
    answer = haystack_task("middle", seed=0)
    assert answer.site == "middle.1"
    assert is_right(
        "middle", answer, [("back", "film.width-4"), ("middle.1", "low-rank-skip.rank-4")]
    )
    assert not is_right("middle", answer, [("front", "low-rank-skip.rank-4")])
    assert not is_right("middle", answer, [("middle.1", "film.width-4")])
    null = haystack_task("null", seed=0)
    assert is_right("null", null, [])
    assert not is_right("null", null, [("front", "film.width-4")])


def test_every_task_has_paired_runs() -> None:
    for task in TASKS:
        controls = {case.control for case in cases(task, 2)}
        assert {"host", "audition", "random-policy"} <= controls
        assert ("static-right" in controls) == bool(RIGHT[task])


def row(task: str, control: str, seed: int, accuracy: float, *kept: str, trials: int = 1) -> RunRow:
    live = control in ("audition", "random-policy")
    answer = haystack_task(task, seed)
    grown = [(arm.rpartition("/")[0], arm.rpartition("/")[2]) for arm in kept]
    return RunRow(
        suite="haystack",
        task=task,
        control=control,
        seed=seed,
        commit="c",
        test_accuracy=accuracy,
        cpu_s=2.0,
        kept=kept,
        right=is_right(task, answer, grown),
        trials=trials if live else None,
    )


def test_the_page_says_which_goals_are_reached() -> None:
    right, wrong = "front/image-conv.width-8", "back/film.width-4"
    rows = [
        found
        for seed in range(4)
        for found in (
            row("conv", "host", seed, 0.3),
            row("conv", "static-right", seed, 0.6, right),
            row("conv", "audition", seed, 0.7, right),
            row("conv", "random-policy", seed, 0.4, right if seed else wrong, trials=36),
            row("null", "host", seed, 0.5),
            row("null", "audition", seed, 0.52, trials=0),
        )
    ]
    page = section(rows)
    for line in (
        "| conv | audition | 4 | **70.0** (70.0 to 70.0) | 4 of 4 | 1 | 2.0 | 0.0 |",
        "| conv | right with at most 3 trials in 90% of runs | 100% | yes |",
        "| conv | right by chance in at most 30% | 75% | **no** |",
        "| conv | 15 points above chance | +30.0 (+30.0 to +30.0) | yes |",
        "| conv | at most 1 point below the right kernel from the start | +10.0 (+10.0 to +10.0) |",
        "| null | within 0.5 points of the host | +2.00 (+2.00 to +2.00) | **no** |",
        "| all | of 4 kernels in the networks, right: at least 90% | 100% | yes |",
    ):
        assert line in page, page


def test_a_right_kernel_after_many_trials_does_not_count() -> None:
    right = "front/image-conv.width-8"
    rows = [row("conv", "audition", seed, 0.7, right, trials=4) for seed in range(FEWEST)]
    assert "| conv | right with at most 3 trials in 90% of runs | 0% | **no** |" in section(rows)
    assert "| 0% | too few runs |" in section(rows[1:])


def test_without_runs_the_page_names_the_command() -> None:
    assert "Not run. Command: `python -m experiments haystack" in section([])
