"""The figures and the page of chaos: outages, counts and the timeline, without a stack."""

import random
from pathlib import Path

import pytest

from benchmarks import kept
from benchmarks.chaos import page, trainers
from benchmarks.chaos.faults import Fault, FaultInjector, Process, Target
from benchmarks.chaos.probes import LIMIT_S
from benchmarks.chaos.trainers import Trainer
from benchmarks.result import Result, figure

RESULT = Result(
    name="chaos",
    quick=False,
    machine={"cores": 2},
    commit="0123456789ab",
    modified=False,
    parameters={"faults": 3},
    figures=(figure("recovery-compile", "compile killed → answers again", "s", [4.0, 6.0]),),
    runs=(
        {"target": "compile", "fault": "SIGKILL", "at_s": 1.0, "recovery_s": 4.0},
        {"target": "compile-2", "fault": "SIGKILL", "at_s": 20.0, "recovery_s": 6.0},
        {"target": "clock", "fault": "clock", "at_s": 30.0, "recovery_s": 3.0},
    ),
    curves={
        "blueprint-sent": (1.0, 2.0),
        "blueprint-answer": (0.1, 5.0),
        "report-sent": (1.0, 2.0),
        "report-answer": (0.01, 0.02),
        "outage-from": (20.0,),
        "outage-to": (26.0,),
        "at-compile": (5.0, 10.0),
        "memory-compile": (100.0, 101.0),
    },
)


def target(name: str, *, only: bool = False) -> Target:
    return Target(name, 1, only, Process(lambda: None, lambda: True))


def injector(*faults: Fault) -> FaultInjector:
    targets = {fault.target.name: fault.target for fault in faults}
    return FaultInjector(targets, random.Random(0), faults=list(faults))


def test_an_outage_is_the_absence_of_the_only_one_or_of_all_of_a_kind() -> None:
    one, two = target("bandit"), target("bandit-2")
    faults = (
        Fault(target("kafka", only=True), "SIGKILL", 1.0, 3.0),
        Fault(one, "SIGKILL", 10.0, 15.0),
        Fault(two, "SIGTERM", 13.0, 20.0),
    )
    assert sorted(injector(*faults).outages()) == [(1.0, 3.0), (13.0, 15.0)]


def test_a_worker_that_another_replaces_is_no_outage() -> None:
    one, two = target("bandit"), target("bandit-2")
    faults = (Fault(one, "SIGKILL", 10.0, 15.0), Fault(two, "SIGKILL", 15.5, 20.0))
    assert list(injector(*faults).outages()) == []


def test_a_training_that_is_refused_whenever_it_is_resumed_ends_the_run_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "END_LIMIT_S", 0.2)
    monkeypatch.setattr(Trainer, "_run_process", lambda self, seed: 1)
    trainer = Trainer("trainer-0", tmp_path, {})
    (tmp_path / "trainer-0-0.pt").touch()
    trainer.start()
    trainer.end()
    assert trainer.failure == "trainer-0 did not complete its run within 0.2 s"
    assert trainer.completed == 0


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved result of a made-up run."""
    monkeypatch.setitem(kept.FOLDERS, kept.BENCHMARKS, tmp_path)
    (tmp_path / "chaos.json").write_text(RESULT.to_json())


def test_page_counts_the_faults_of_each_kind_with_their_recovery(saved: None) -> None:
    rows = [line for line in page.render().splitlines() if line.startswith("| compile | SIGKILL")]
    assert rows == ["| compile | SIGKILL | 2 | 5 s | 6 s |"]
    assert "| clock | clock | 1 |  |  |" in page.render()


def test_timeline_shows_targets_answers_and_memory(saved: None) -> None:
    drawn = page.draw()
    assert drawn == page.draw()
    for text in ("compile-2", "clock", "blueprint", "report", "MiB", f"limit {LIMIT_S:g} s"):
        assert text in drawn


def test_committed_page_matches_the_result() -> None:
    assert page.DOCUMENT.read_text() == page.render(), "run `python -m benchmarks figures`"
    assert page.TIMELINE.read_text() == page.draw(), "run `python -m benchmarks figures`"
