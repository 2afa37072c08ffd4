"""Which blueprints get a kernel: places in order of submission, quotas, withdrawals."""

import pytest

from esper.blueprint import (
    ANONYMOUS,
    MAX_BLUEPRINTS,
    BlueprintRejected,
    PlanLimits,
    Submissions,
    planned,
    publisher_of,
    requests_for,
    withdrawn_id,
)
from esper.topics.codec import encode
from esper.topics.models import (
    Blueprint,
    Node,
    RunStatus,
    SiteKind,
    SiteSignature,
    TrainingRun,
)

VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(12,))
LIMITS = PlanLimits(kernels=4, kernels_of_publisher=2)


def blueprint(name: str, width: int = 2) -> Blueprint:
    nodes = (
        Node(id="narrow", op="linear", inputs=("h",), args={"out": width}),
        Node(id="widen", op="linear", inputs=("narrow",), args={"out": "D"}),
    )
    return Blueprint(blueprint_id=name, kind=SiteKind.VECTOR, nodes=nodes, output="widen")


def submissions(*names: str) -> Submissions:
    """Return submissions; a name is `publisher/id`."""
    found = Submissions()
    for name in names:
        publisher, _, blueprint_id = name.partition("/")
        found.submit(blueprint(blueprint_id), publisher)
    return found


def placed(found: Submissions) -> list[str]:
    return list(planned(found, SiteKind.VECTOR, LIMITS))


def test_places_are_taken_in_order_of_submission() -> None:
    assert placed(submissions("a/one", "b/two", "c/three", "d/four", "e/five")) == [
        "one",
        "two",
        "three",
        "four",
    ]


def test_a_publisher_takes_only_its_part_of_the_places() -> None:
    assert placed(submissions("a/one", "a/two", "a/three", "b/four")) == ["one", "two", "four"]


def test_a_later_blueprint_displaces_none() -> None:
    found = submissions("a/one", "a/two", "b/three", "b/four")
    before = placed(found)
    found.submit(blueprint("zero"), "c")
    assert placed(found) == before


def test_a_withdrawn_blueprint_frees_its_place() -> None:
    found = submissions("a/one", "a/two", "a/three")
    assert found.withdraw("one")
    assert not found.withdraw("one")
    assert placed(found) == ["two", "three"]


def test_a_replaced_blueprint_keeps_its_place_and_has_the_new_content() -> None:
    found = submissions("a/one", "a/two", "a/three")
    found.submit(blueprint("one", width=3), "a")
    assert placed(found) == ["one", "two"]
    assert next(iter(found)).blueprint == blueprint("one", width=3)


def test_a_publisher_with_too_many_blueprints_is_rejected_and_others_are_not() -> None:
    found = Submissions()
    for number in range(MAX_BLUEPRINTS):
        found.submit(blueprint(f"b-{number}"), "a")
    with pytest.raises(BlueprintRejected, match="withdraw some") as rejection:
        found.submit(blueprint("more"), "a")
    assert rejection.value.code == "over-quota"
    found.submit(blueprint("b-7", width=3), "a")
    found.submit(blueprint("more"), "b")
    found.withdraw("b-0")
    found.submit(blueprint("again"), "a")


def test_records_give_the_same_submissions() -> None:
    found = Submissions()
    found.read(None, encode(blueprint("one")), (("ce_source", b"/me"),))
    found.read(b"two", encode(blueprint("two")), ())
    found.read(None, b"not json", ())
    found.read(b"two", None, ())
    (standing,) = found
    assert standing == (blueprint("one"), "/me")


def test_a_publisher_is_the_source_of_the_record() -> None:
    assert publisher_of((("ce_source", b"/me"),)) == "/me"
    assert publisher_of(()) == publisher_of((("ce_source", b""),)) == ANONYMOUS
    assert publisher_of((("ce_source", b"\xff"),)) == "\ufffd"


@pytest.mark.parametrize(
    ("key", "value", "withdrawn"),
    [(b"one", None, "one"), (b"one", b"", None), (None, None, None), (b"No Id", None, None)],
)
def test_only_a_tombstone_withdraws(
    key: bytes | None, value: bytes | None, withdrawn: str | None
) -> None:
    assert withdrawn_id(key, value) == withdrawn


def test_a_run_limits_its_kernels() -> None:
    run = TrainingRun(
        run_id="run",
        status=RunStatus.OPEN,
        sites={"one": VECTOR, "two": VECTOR},
        kernels_per_site=3,
        kernels_per_publisher=2,
    )
    found = submissions("a/one", "a/two", "a/three", "b/four", "c/five")
    requested = [request.blueprint.blueprint_id for request in requests_for(found, run)]
    assert requested == ["one", "two", "four"]
