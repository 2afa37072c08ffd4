"""The fold depends on its arguments only: no clock, no randomness, no hash order."""

import os
import random
import secrets
import subprocess
import sys
import time
from dataclasses import replace
from typing import NoReturn

import pytest

from esper.audit import cause_of
from esper.orchestrator import fold
from esper.topics.codec import decode, encode, sha256_of
from esper.topics.models import SeedReport
from tests.orchestrator.trainer import Trainer, grown_run

IN_ANOTHER_PROCESS = """
import sys
from esper.audit import cause_of
from esper.orchestrator import fold
from tests.orchestrator.trainer import Trainer
from tests.orchestrator.test_purity import refold
from esper.topics.bus import Record
records = []
for line in sys.stdin.buffer:
    offset, value = line.rstrip(b"\\n").split(b" ", 1)
    records.append(Record("seed-metrics", 3, int(offset), 0, b"run", value))
print(refold(records))
assert "torch" not in sys.modules
"""


def refold(reports: list) -> str:  # type: ignore[type-arg]
    """Fold the reports; return the digests of all events that follow and of the last state."""
    state = None
    values = b""
    for record in reports:
        report = decode(SeedReport, record.value)
        state, decisions, candidates = fold(state, report, cause_of(record, report))
        values += b"".join(encode(event) for event in (*decisions, *candidates))
    assert state is not None
    return f"{sha256_of(values)} {sha256_of(state.to_bytes())}"


@pytest.fixture(scope="module")
def run() -> Trainer:
    return grown_run()


def test_the_same_reports_give_the_same_bytes_in_every_process(run: Trainer) -> None:
    lines = b"".join(b"%d %s\n" % (record.offset, record.value) for record in run.reports)
    derived = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            input=lines,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        ).stdout.decode()
        for seed in ("0", "4711")
    }
    assert derived == {refold(run.reports) + "\n"}


def test_folding_again_gives_the_recorded_decisions_and_state(run: Trainer) -> None:
    values = b"".join(record.value or b"" for record in run.decisions)
    assert refold(run.reports) == f"{sha256_of(values)} {sha256_of(run.fold_state.to_bytes())}"


def test_the_fold_reads_no_clock_and_no_system_randomness(
    run: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = refold(run.reports)

    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError("the fold must not read this")

    for module, name in (
        (time, "time"),
        (time, "time_ns"),
        (time, "monotonic"),
        (time, "perf_counter"),
        (random, "random"),
        (random, "getrandbits"),
        (random, "choice"),
        (os, "urandom"),
        (secrets, "token_hex"),
        (secrets, "token_bytes"),
    ):
        monkeypatch.setattr(module, name, refuse)
    found = refold(run.reports)
    monkeypatch.undo()
    assert found == expected


def test_the_fold_does_not_change_its_argument(run: Trainer) -> None:
    before = run.fold_state.to_bytes()
    record = run.reports[-1]
    report = decode(SeedReport, record.value).model_copy(update={"seq": run.seq})
    open_again = replace(run.fold_state, closed=False)
    fold(open_again, report, cause_of(record, report))
    assert run.fold_state.to_bytes() == before
