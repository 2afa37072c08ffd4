"""Every benchmark runs in its quick form and returns a valid result; no time is asserted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    bandit,
    burst,
    compare,
    compile_workers,
    decide,
    decision_size,
    dormant,
    executor,
    flood,
    governor,
    grow_step,
    kernel_costs,
    memory_flat,
    passes,
    pipeline,
    registry,
    steps,
    store,
    trainers,
    twin,
)
from benchmarks.origin import ROOT
from benchmarks.paced_trainer import RUN
from benchmarks.report_load import ReportLoad
from benchmarks.result import BenchmarkError, Measurement
from benchmarks.stack import Stack
from esper.orchestrator import FoldState, fold
from esper.topics.bus import read_topic
from esper.topics.catalog import ADAPTATION_DECISION
from esper.topics.codec import decode, encode
from esper.topics.models import AdaptationDecision, Cause, SeedReport
from tests.benchmarks.result_check import check


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("catalog", kernel_costs.run),
        ("dormant", dormant.run),
        ("executor", executor.run),
        ("passes", passes.run),
        ("decide", decide.run),
        ("store", store.run),
    ],
)
def test_single_process_benchmark_runs(name: str, run: Callable[[bool], Measurement]) -> None:
    check(name, run(True))


@pytest.mark.heavy
def test_governor_starts_its_own_stack_and_returns_a_row_per_run() -> None:
    measured = governor.run(quick=True)
    check("governor", measured)
    assert all(row["exploded"] and row["incidents"] for row in measured.runs)
    assert len(measured.runs) == 4


@pytest.mark.heavy
def test_grow_step_runs(stack: Stack) -> None:
    check("grow-step", grow_step.measure(stack, grow_step.QUICK))


@pytest.mark.heavy
def test_pipeline_runs(stack: Stack) -> None:
    measured = pipeline.measure(stack, pipeline.QUICK)

    check("pipeline", measured)
    submitted = {figure.key: figure for figure in measured.figures}["submitted-to-ready"]
    assert submitted.n == pipeline.QUICK_ENTRIES


@pytest.mark.heavy
def test_burst_runs_and_loses_no_kernel(stack: Stack) -> None:
    measured = burst.measure(stack, burst.QUICK)

    check("burst", measured)
    lost = {figure.key: figure for figure in measured.figures}["kernels-lost"]
    assert lost.worst == 0


@pytest.mark.heavy
def test_flood_runs(stack: Stack) -> None:
    check("flood", flood.measure(stack, flood.QUICK))


@pytest.mark.heavy
def test_compile_workers_run() -> None:
    check("compile-workers", compile_workers.run(quick=True))


@pytest.mark.heavy
def test_steps_run(stack: Stack) -> None:
    core = min(os.sched_getaffinity(0))

    measured = steps.measure(stack, steps.QUICK, core)

    check("steps", measured)
    assert measured.parameters["kernels_compiled_meanwhile"] > 0, "the pipeline was idle"
    answers = decisions_of(stack, RUN)
    # Closing decisions, and decisions without operations because every slot is taken.
    assert answers
    assert not any(answer.operations for answer in answers), "nothing was planted"


@pytest.mark.heavy
def test_training_with_a_busy_pipeline_equals_the_plain_loop_bit_for_bit(stack: Stack) -> None:
    measured = twin.measure(stack, twin.QUICK)

    check("twin", measured)
    figures = {figure.key: figure for figure in measured.figures}
    assert figures["kernels"].median > 0
    assert figures["withheld"].median >= twin.QUICK.decisions
    assert {figures[f"differing-{kind}"].worst for kind in twin.TITLES} == {0}


@pytest.mark.heavy
def test_training_with_applied_decisions_differs_from_the_plain_loop(stack: Stack) -> None:
    """Show that the comparison above can fail."""
    pair = twin.pair(stack.settings, 1, twin.Workload(1, 400, 0), dry_run=False)

    assert pair.differing["weights"] > 0


def decisions_of(stack: Stack, run: str) -> list[AdaptationDecision]:
    """Return the decisions of the runs whose id starts with `run`."""
    records = read_topic(stack.settings.kafka_bootstrap_servers, ADAPTATION_DECISION.name)
    decisions = [decode(AdaptationDecision, record.value) for record in records]
    return [decision for decision in decisions if decision.run_id.startswith(run)]


@pytest.mark.heavy
def test_bandit_runs_and_both_sides_fold_every_report(stack: Stack) -> None:
    check("bandit", bandit.measure(stack, bandit.QUICK))


@pytest.mark.heavy
def test_decision_size_runs_and_decides_with_every_number_of_arms(stack: Stack) -> None:
    measured = decision_size.measure(stack, decision_size.QUICK)
    check("decision-size", measured)
    figures = {figure.key: figure for figure in measured.figures}
    assert figures["bytes-16"].median == figures["bytes-all-16"].median > 1_000
    assert figures["bytes-3000"].median < figures["bytes-all-3000"].median / 100


@pytest.mark.heavy
def test_trainers_run_and_hear_the_kernels_for_their_sites(stack: Stack) -> None:
    measured = trainers.measure(stack, trainers.QUICK)

    check("trainers", measured)
    figures = {figure.key: figure for figure in measured.figures}
    own = 3 * trainers.SITES_A_TRAINER
    # Kernels of other benchmarks for the same sites may be on the topic too.
    assert figures["announcements-own"].median == figures["announcements-own"].worst >= own
    assert figures["announcements"].worst < figures["announcements-whole"].worst
    assert figures["decisions-own"].worst == 1


@pytest.mark.heavy
def test_memory_flat_runs_and_folds_every_report(stack: Stack) -> None:
    check("memory-flat", memory_flat.measure(stack, memory_flat.QUICK))


def test_report_load_leads_to_one_decision_in_twenty_reports() -> None:
    load = ReportLoad("load", runs=1, decisions_a_run=3)
    state: FoldState | None = None
    decided = []
    for report in load:
        assert decode(SeedReport, encode(report)) == report
        cause = Cause(topic="t", partition=0, offset=0, seq=report.seq, sha256="0" * 64)
        state, decisions, _ = fold(state, report, cause)
        decided += [report.seq] * len(decisions)

    assert load.reports == 60
    assert decided == [0, 20, 40]


def test_unknown_benchmark_is_an_error_that_lists_the_names() -> None:
    with pytest.raises(BenchmarkError, match="no benchmark 'speed'; choose from: pipeline, burst"):
        registry.measure("speed")


def test_compare_returns_ratios_of_medians_from_both_checkouts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[Path] = []

    def medians(checkout: Path, name: str, quick: bool) -> dict[str, Any]:
        order.append(checkout)
        median = 2.0 if checkout == tmp_path else 1.0
        shared = {"time": {"median": median, "unit": "ms"}}
        return shared | ({} if checkout == tmp_path else {"new": {"median": 1.0, "unit": "ms"}})

    monkeypatch.setattr(compare, "_medians", medians)
    result = compare.compare(tmp_path, "dormant", pairs=2)

    assert order == [tmp_path, ROOT, ROOT, tmp_path]
    assert [figure.key for figure in result.figures] == ["time"]
    assert result.figure("time").median == 0.5
    assert result.figure("time").n == 2
    assert result.figure("time").sides["before"].median == 2.0
