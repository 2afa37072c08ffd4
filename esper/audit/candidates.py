"""Compare the records of candidates that decisions do not list with the derived ones."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from esper.audit.finding import Derived, Different, check_digest, difference
from esper.topics.bus import Record
from esper.topics.codec import Undecodable, decode
from esper.topics.models import DecisionCandidates


class CandidateCounts(NamedTuple):
    """Records that were compared: identical repeats, and foreign ones that were passed over."""

    repeats: int = 0
    foreign: int = 0


_Name = tuple[int, int, int]


def compare_candidates(
    expected: Sequence[Derived], found: Sequence[Record], *, pass_foreign: bool
) -> CandidateCounts:
    """Find each derived record among those on the topic; count repeats and foreign records.

    The records are not signed; a decision's signature covers their digest. With `pass_foreign`, a
    record that no decision leads to is counted; without, it is a finding.

    Raises:
        Different: a derived record is missing or altered, or a record is foreign.
    """
    derived = {one.value for one in expected}
    genuine = [record for record in found if record.value in derived]
    present = {record.value for record in genuine}
    missing = {
        _name(decode(DecisionCandidates, one.value)): one
        for one in expected
        if one.value not in present
    }
    foreign = [record for record in found if record.value not in derived]
    for record, fault in _faults(foreign, missing, pass_foreign=pass_foreign):
        raise Different(record, fault)
    for (_, index, part), one in missing.items():
        what = f"part {part} of the other candidates of its decision {index} is not recorded"
        raise Different(one.report, what)
    return CandidateCounts(len(genuine) - len(present), len(foreign))


def _faults(
    foreign: Sequence[Record], missing: dict[_Name, Derived], *, pass_foreign: bool
) -> Iterator[tuple[Record, str]]:
    """Yield the faults of records that are not derived ones."""
    for record in foreign:
        try:
            event = decode(DecisionCandidates, record.value)
        except Undecodable as error:
            if not pass_foreign:
                yield record, f"not readable: {error}"
            continue
        altered = missing.get(_name(event))
        if altered is not None:
            check_digest(record)
            yield record, difference(DecisionCandidates, altered.value, record.value or b"")
        elif not pass_foreign:
            yield record, "no decision has these candidates"


def _name(event: DecisionCandidates) -> _Name:
    return event.seq, event.index, event.part
