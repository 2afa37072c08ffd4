"""Make the tampered histories from the honest one: `python -m tests.audit.histories.make`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from esper.audit import RunRecords, read_history, write_history
from tests.audit.tampering import changed, forged, one_digit_more, swapped, with_value

HERE = Path(__file__).parent

ALTERED_REPORT = 4
ALTERED_DECISION = 1
EXCHANGED_REPORT = 6


def tampered(honest: RunRecords) -> Iterator[tuple[str, RunRecords]]:
    """Yield the name and the records of each tampered history file."""
    report = honest.reports[ALTERED_REPORT]
    value = one_digit_more(report.value or b"")
    for name, altered in (
        ("tampered-report", with_value(report, value)),
        ("forged-report", forged(report, value)),
    ):
        reports = changed(honest.reports, ALTERED_REPORT, altered)
        yield f"{name}.jsonl", replace(honest, reports=reports)
    decision = honest.decisions[ALTERED_DECISION]
    other = (decision.value or b"").replace(b'"ramp_steps":20', b'"ramp_steps":21')
    decisions = changed(honest.decisions, ALTERED_DECISION, forged(decision, other))
    yield "tampered-decision.jsonl", replace(honest, decisions=decisions)
    yield "reordered.jsonl", replace(honest, reports=swapped(honest.reports, EXCHANGED_REPORT))


def main() -> None:
    """Write the tampered histories beside the honest one."""
    for name, history in tampered(read_history(HERE / "honest.jsonl")):
        print(f"{name}: {write_history(history, HERE / name)} records")


if __name__ == "__main__":
    main()
