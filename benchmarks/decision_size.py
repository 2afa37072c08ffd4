"""The size of a decision, and the time to fold and publish it, with 16 to 3,000 arms.

Both ways to record the candidates fold the same report: all of them in the decision, as runs of
earlier versions do, and the best few, with the others in records of their own. Publishing is as in
the bandit worker, to a real broker that confirms each record. A trainer decodes decisions only.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from benchmarks.decide import next_report, run_state
from benchmarks.result import RATIO, Figure, Goal, Measurement, figure, ratio
from benchmarks.stack import Stack, local_stack
from benchmarks.timing import interleaved, scaled
from esper.orchestrator import LISTED_CANDIDATES, Folded, fold
from esper.topics.bus import Producer, TracedEvent
from esper.topics.catalog import ADAPTATION_DECISION, DECISION_CANDIDATES
from esper.topics.codec import decode, encode
from esper.topics.models import AdaptationDecision, Cause, Event

ARMS: Final = (16, 300, 3_000)
FLAT: Final = Goal(sense="at most", limit=1.1)


class Workload(NamedTuple):
    """Timed rounds of each number of arms."""

    rounds: int


FULL: Final = Workload(rounds=100)
QUICK: Final = Workload(rounds=2)


def run(quick: bool = False) -> Measurement:
    """Measure on a new stack."""
    with local_stack() as stack:
        return measure(stack, QUICK if quick else FULL)


def measure(stack: Stack, workload: Workload) -> Measurement:
    """Measure on a running stack; its workers have no reports meanwhile."""
    with asyncio.Runner() as runner:
        producer = Producer(stack.settings.kafka_bootstrap_servers, source="/esper/benchmark")
        try:
            figures = [
                entry
                for arms in ARMS
                for entry in _figures(arms, workload.rounds, runner, producer)
            ]
        finally:
            runner.run(producer.stop())
    smallest, largest = (_bytes(_fold(arms, LISTED_CANDIDATES)) for arms in (ARMS[0], ARMS[-1]))
    figures.append(
        figure(
            "flat",
            f"bytes of a decision with {ARMS[-1]:,} arms ÷ with {ARMS[0]}",
            RATIO,
            [largest / smallest],
            goal=FLAT,
        )
    )
    return Measurement(
        parameters={"listed_candidates": LISTED_CANDIDATES, **workload._asdict()},
        figures=tuple(figures),
    )


def _figures(
    arms: int, rounds: int, runner: asyncio.Runner, producer: Producer
) -> Iterator[Figure]:
    few, everything = _fold(arms, LISTED_CANDIDATES), _fold(arms, None)
    title = f"{arms:,} arms"
    for key, what, size in (
        ("bytes-all", "a decision that lists all", _bytes(everything)),
        ("bytes", "a decision that lists the best", _bytes(few)),
        ("bytes-others", "the records of the others", sum(map(_size, few.candidates))),
    ):
        yield figure(f"{key}-{arms}", f"{title}: {what}", "B", [size])

    everything_value, few_value = (encode(one.decisions[0]) for one in (everything, few))
    seconds = interleaved(
        {
            "all": _fold_and_publish(arms, None, runner, producer),
            "few": _fold_and_publish(arms, LISTED_CANDIDATES, runner, producer),
            "decode-all": lambda: decode(AdaptationDecision, everything_value),
            "decode-few": lambda: decode(AdaptationDecision, few_value),
        },
        rounds=rounds,
    )
    all_ms, few_ms = (scaled(seconds[side], 1e3) for side in ("all", "few"))
    yield figure(f"ms-all-{arms}", f"{title}: fold and publish, all listed", "ms", all_ms)
    yield figure(f"ms-{arms}", f"{title}: fold and publish, the best listed", "ms", few_ms)
    yield ratio(
        f"time-{arms}",
        f"{title}: fold and publish, the best listed ÷ all listed",
        ("best_ms", few_ms),
        ("all_ms", all_ms),
    )
    for key, what, side in (
        ("decode-all", "the trainer decodes a decision that lists all", "decode-all"),
        ("decode", "the trainer decodes a decision that lists the best", "decode-few"),
    ):
        yield figure(f"{key}-{arms}", f"{title}: {what}", "ms", scaled(seconds[side], 1e3))


def _fold_and_publish(
    arms: int, listed: int | None, runner: asyncio.Runner, producer: Producer
) -> Callable[[], object]:
    """Return a call of the worker's steps from a report to a confirmed decision."""
    state, report, cause = run_state(arms, listed), next_report(), _cause()

    async def publish(folded: Folded) -> None:
        for decision in folded.decisions:
            encode(decision)  # the worker looks at its size first
        await producer.publish_all(DECISION_CANDIDATES, _traced(folded.candidates))
        await producer.publish_all(ADAPTATION_DECISION, _traced(folded.decisions))

    return lambda: runner.run(publish(fold(state, report, cause)))


def _traced(events: tuple[Event, ...]) -> list[TracedEvent]:
    return [TracedEvent(event) for event in events]


def _fold(arms: int, listed: int | None) -> Folded:
    return fold(run_state(arms, listed), next_report(), _cause())


def _bytes(folded: Folded) -> int:
    return sum(map(_size, folded.decisions))


def _size(event: Event) -> int:
    return len(encode(event))


def _cause() -> Cause:
    report = next_report()
    return Cause(
        topic="seed-metrics", partition=0, offset=report.seq, seq=report.seq, sha256="0" * 64
    )
