"""The haystack: some 300 arms, one of which supplies what the host lacks."""

import pytest
import torch

from esper.seed import find_sites
from experiments.growth.planting import KernelBuilder
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
