"""Hostile blueprints, through codec, check and a real compile pool: one answer each, no harm."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psutil
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings

from esper.blueprint import BlueprintRejected, check, request_for, resolve, shipped_named
from esper.compiler import Built, CompilePool
from esper.compiler.limits import ProcessLimits
from esper.compiler.results import BuildResult
from esper.kernel import Kernel, unpack
from esper.topics.codec import Undecodable, decode
from esper.topics.models import Blueprint, SiteSignature
from tests.compiler.hostile.corpus import MAP, UNDECODABLE, Hostile, corpus, letter
from tests.compiler.hostile.mutants import mutants

BUILT: Final = "built"
LITTLE_TIME: Final = ProcessLimits(wall_s=600.0, cpu_s=1.0, memory_mb=2048)
LITTLE_MEMORY: Final = ProcessLimits(wall_s=600.0, cpu_s=300.0, memory_mb=512)
"""One limit is tight and the others out of reach, whatever the speed of the machine."""

STRUCTURAL: Final = {
    *("unknown-op", "wrong-arity", "unknown-argument", "missing-argument", "bad-argument"),
    *("bad-expression", "reserved-name", "duplicate-node", "dangling-reference", "cycle"),
    *("output-missing", "dead-node"),
}
"""Codes for faults that do not depend on a site; such blueprints are never planned."""

MEBIBYTE: Final = 1 << 20
MAX_GROWTH: Final = 256 * MEBIBYTE
HONEST: Final = request_for(shipped_named("conv-bottleneck"), MAP)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one hostile message, and the pool's result if the message decodes."""

    code: str
    reason: str
    outcome: BuildResult | None = None


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """The event loop that feeds the pools."""
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def compile_pool() -> Iterator[CompilePool]:
    with CompilePool(processes=1, limits=LITTLE_TIME) as compile_pool:
        yield compile_pool


@pytest.fixture(scope="module")
def small_pool() -> Iterator[CompilePool]:
    """A pool for blueprints that must exceed its memory."""
    with CompilePool(processes=1, limits=LITTLE_MEMORY) as compile_pool:
        yield compile_pool


@dataclass(frozen=True, slots=True)
class Run:
    """The answer to every message by name, and the bytes in use before and after."""

    answers: dict[str, Reply]
    bytes_before: int
    bytes_after: int


@pytest.fixture(scope="module")
def whole_run(compile_pool: CompilePool, small_pool: CompilePool, loop: asyncio.Runner) -> Run:
    """Build the whole corpus, slow messages first, then an honest blueprint in each pool."""
    entries = sorted(corpus(), key=lambda entry: not entry.slow)
    pools = [small_pool if entry.expected == "out-of-memory" else compile_pool for entry in entries]

    async def all_at_once() -> list[Reply]:
        return await asyncio.gather(*map(answer_to, entries, pools))

    before = memory_in_use()
    found = loop.run(all_at_once())
    assert all(
        isinstance(loop.run(pool.build(HONEST)), Built) for pool in (compile_pool, small_pool)
    )
    named = {entry.name: answer for entry, answer in zip(entries, found, strict=True)}
    return Run(named, before, memory_in_use())


@pytest.fixture
def answers(whole_run: Run) -> dict[str, Reply]:
    return whole_run.answers


async def answer_to(entry: Hostile, compile_pool: CompilePool) -> Reply:
    """Handle a message as planner and compile worker do."""
    try:
        blueprint = decode(Blueprint, entry.value)
    except Undecodable as error:
        return Reply(UNDECODABLE, str(error))
    outcome = await compile_pool.build(request_for(blueprint, entry.site))
    if isinstance(outcome, Built):
        return Reply(BUILT, "", outcome)
    return Reply(outcome.code.value, outcome.reason, outcome)


def memory_in_use() -> int:
    """Return the resident bytes of this process and of its pools' processes."""
    us = psutil.Process()
    return sum(process.memory_info().rss for process in (us, *us.children(recursive=True)))


def test_every_hostile_blueprint_gets_its_answer(answers: dict[str, Reply]) -> None:
    wrong = {
        entry.name: (entry.expected, answers[entry.name].code, answers[entry.name].reason)
        for entry in corpus()
        if answers[entry.name].code != entry.expected
    }
    assert not wrong


def test_the_corpus_is_large_and_of_every_kind() -> None:
    harmful = [entry for entry in corpus() if entry.expected != BUILT]
    expected = Counter(entry.expected for entry in harmful)
    assert len(harmful) - expected[UNDECODABLE] >= 300
    assert expected[UNDECODABLE] >= 300
    at_a_site = {"bad-parameter", "bad-size", "shape-mismatch", "output-shape", "wrong-kind"}
    limits = {"too-many-parameters", "too-many-activations", "too-many-flops"}
    running = {"not-finite", "no-gradient", "timeout", "out-of-memory"}
    assert {UNDECODABLE} | STRUCTURAL | at_a_site | limits | running == set(expected)


def test_what_no_site_could_use_is_refused_before_it_is_planned() -> None:
    missed = []
    for entry in corpus():
        if entry.expected in STRUCTURAL:
            try:
                check(decode(Blueprint, entry.value))
            except BlueprintRejected as rejection:
                assert rejection.code.value == entry.expected
            else:
                missed.append(entry.name)
    assert not missed


def test_reasons_are_one_printable_line_whatever_they_quote(answers: dict[str, Reply]) -> None:
    reasons = [answer.reason for answer in answers.values()]
    assert all(reason.isprintable() for reason in reasons), "a terminal or log would act on it"
    assert max(map(len, reasons)) <= 2000


def test_a_flood_of_faults_costs_no_more_than_the_first(answers: dict[str, Reply]) -> None:
    """The event loop finds and describes every fault that a reason reports."""
    floods = {name: each.reason for name, each in answers.items() if name.startswith("flood/")}
    counts = {name: re.search(r"and (\d+) more", reason) for name, reason in floods.items()}
    assert len(counts) >= 8
    assert {name: int(more[1]) for name, more in counts.items() if more and int(more[1]) > 9} == {}


def test_a_graph_that_gives_its_inputs_back_becomes_a_kernel_that_does_not(
    answers: dict[str, Reply],
) -> None:
    aliasing = [answer.outcome for name, answer in answers.items() if "-itself-by-" in name]
    assert len(aliasing) >= 8
    for outcome in aliasing:
        assert isinstance(outcome, Built)
        plan, tensors = unpack(outcome.artifact)
        kernel = Kernel(plan, tensors, outcome.sha256)
        x, h = torch.randn(2, *plan.signature.x), torch.randn(2, *plan.signature.h)
        result = kernel(x, h).detach()
        assert result.untyped_storage().data_ptr() not in {
            value.untyped_storage().data_ptr() for value in (x, h, *kernel.parameters())
        }


def test_the_pools_continue_and_hold_no_more_memory(whole_run: Run) -> None:
    assert whole_run.bytes_after - whole_run.bytes_before < MAX_GROWTH


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutants())
def test_a_spoiled_blueprint_is_resolved_or_refused(case: tuple[bytes, SiteSignature]) -> None:
    value, site = case
    try:
        resolved = resolve(decode(Blueprint, value), site)
    except (Undecodable, BlueprintRejected):
        return
    assert resolved.nodes[-1].output == site.h


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutants())
@example((letter(), MAP))
def test_a_spoiled_blueprint_harms_no_process(
    compile_pool: CompilePool, loop: asyncio.Runner, case: tuple[bytes, SiteSignature]
) -> None:
    value, site = case
    answer = loop.run(answer_to(Hostile("mutant", value, "any", site), compile_pool))
    assert answer.code not in ("crashed", "not-runnable", "not-loadable"), answer.reason
