"""Every benchmark runs, on little, and its JSON says all that a reader needs. Never how fast."""

import math
import os
from collections.abc import Callable

import orjson
import pytest

from benchmarks import (
    bandit,
    burst,
    catalog,
    catalog_table,
    convergence,
    decide,
    dormant,
    executor,
    governor,
    grow_step,
    memory_flat,
    passes,
    pipeline,
    regret,
    steps,
    twin,
)
from benchmarks.goals import ROWS
from benchmarks.paced_trainer import RUN
from benchmarks.report_load import Load
from benchmarks.result import BenchmarkError, Measured, Result
from benchmarks.stack import Stack
from esper.orchestrator import FoldState, fold
from esper.topics.bus import read_topic
from esper.topics.catalog import ADAPTATION_DECISION
from esper.topics.codec import decode, encode
from esper.topics.models import AdaptationDecision, Cause, SeedReport


def check(name: str, measured: Measured) -> None:
    """Hold a measurement against what every result must have."""
    result = Result(
        name=name, quick=True, machine={}, commit="unknown", modified=False, **dict(measured)
    )
    written = orjson.loads(result.to_json())
    figures = {figure["key"]: figure for figure in written["figures"]}

    assert Result.model_validate(written).to_json() == result.to_json()
    assert len(figures) == len(written["figures"]), "two figures have one key"
    for figure in figures.values():
        assert figure["what"] and figure["unit"] and figure["n"] >= 1
        low, high = figure["spread"]
        assert low <= figure["median"] <= high <= figure["worst"]
        assert low <= figure["p90"] <= figure["worst"]
        assert all(map(math.isfinite, (low, high, figure["worst"])))
        assert (figure["reached"] is None) == (figure["goal"] is None)
        assert all(side["n"] == figure["n"] for side in figure["sides"].values())
        assert len(figure["sides"]) == (2 if figure["unit"] == "ratio" and figure["sides"] else 0)
    for row in ROWS:
        if row.benchmark == name:
            assert all(figures[key]["goal"] is not None for key in row.figures)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("catalog", catalog_table.run),
        ("dormant", dormant.run),
        ("executor", executor.run),
        ("passes", passes.run),
        ("decide", decide.run),
        ("regret", regret.run),
    ],
)
def test_a_benchmark_of_one_process_runs(name: str, run: Callable[[bool], Measured]) -> None:
    check(name, run(True))


def test_the_governor_is_measured_on_a_stack_of_its_own_and_tells_of_every_run() -> None:
    measured = governor.run(quick=True)
    check("governor", measured)
    assert all(row["exploded"] and row["incidents"] for row in measured.runs)
    assert len(measured.runs) == 4


def test_convergence_runs_on_a_stack_of_its_own_and_tells_of_every_run() -> None:
    measured = convergence.run(quick=True)

    check("convergence", measured)
    assert [(each["way"], each["seed"]) for each in measured.runs] == [
        ("choosing", convergence.FIRST_SEED),
        ("growing", convergence.FIRST_SEED),
    ]
    assert all(sum(map(len, each["plantings_by_third"])) > 0 for each in measured.runs)


def test_grow_step_runs(stack: Stack) -> None:
    check("grow-step", grow_step.measure(stack, grow_step.QUICK))


def test_pipeline_runs(stack: Stack) -> None:
    measured = pipeline.measure(stack, pipeline.QUICK)

    check("pipeline", measured)
    submitted = {figure.key: figure for figure in measured.figures}["submitted-to-ready"]
    assert submitted.n == pipeline.QUICK_ENTRIES


def test_burst_runs_and_loses_nothing(stack: Stack) -> None:
    measured = burst.measure(stack, burst.QUICK)

    check("burst", measured)
    lost = {figure.key: figure for figure in measured.figures}["kernels-lost"]
    assert lost.worst == 0


def test_steps_run(stack: Stack) -> None:
    core = min(os.sched_getaffinity(0))

    measured = steps.measure(stack, steps.QUICK, core)

    check("steps", measured)
    assert measured.parameters["kernels_compiled_meanwhile"] > 0, "the pipeline was never busy"
    answers = decisions_of(stack, RUN)
    # The seals, and that nothing can be planted where no kernel may be.
    assert answers
    assert not any(answer.operations for answer in answers), "nothing was planted"


def test_a_twin_whose_pipeline_is_busy_is_bit_for_bit_the_plain_loop(stack: Stack) -> None:
    measured = twin.measure(stack, twin.QUICK)

    check("twin", measured)
    figures = {figure.key: figure for figure in measured.figures}
    assert figures["kernels"].median > 0
    assert figures["withheld"].median >= twin.QUICK.decisions
    assert {figures[f"differing-{kind}"].worst for kind in twin.WHAT} == {0}


def test_a_twin_whose_decisions_are_applied_differs(stack: Stack) -> None:
    """Or to be alike would prove nothing."""
    pair = twin.pair(stack.settings, 1, twin.Amount(1, 400, 0), dry_run=False)

    assert pair.differing["weights"] > 0


def decisions_of(stack: Stack, run: str) -> list[AdaptationDecision]:
    """All decisions of the runs that are called so."""
    records = read_topic(stack.settings.kafka_bootstrap_servers, ADAPTATION_DECISION.name)
    decisions = [decode(AdaptationDecision, record.value) for record in records]
    return [decision for decision in decisions if decision.run_id.startswith(run)]


def test_bandit_runs_with_both_sides_folding_every_report(stack: Stack) -> None:
    check("bandit", bandit.measure(stack, bandit.QUICK))


def test_memory_flat_runs_with_every_report_folded(stack: Stack) -> None:
    check("memory-flat", memory_flat.measure(stack, memory_flat.QUICK))


def test_the_load_of_the_bandit_leads_to_one_decision_in_twenty_reports() -> None:
    load = Load("load", runs=1, decisions_a_run=3)
    state: FoldState | None = None
    decided = []
    for report in load:
        assert decode(SeedReport, encode(report)) == report
        cause = Cause(topic="t", partition=0, offset=0, seq=report.seq, sha256="0" * 64)
        state, decisions = fold(state, report, cause)
        decided += [report.seq] * len(decisions)

    assert load.reports == 60
    assert decided == [0, 20, 40]


def test_an_unknown_benchmark_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(BenchmarkError, match="no benchmark 'speed'; there are pipeline, burst"):
        catalog.measure("speed")
