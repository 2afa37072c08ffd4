"""The kernels that a lockstep run begins with, in any order of announcements and answers."""

import pytest

from esper.blueprint import kernel_id, shipped_named
from esper.link.catalogue import Catalogue, Missing, expected_kernels, superseded_kernels
from esper.link.frames import Frame, Kind
from esper.topics.bus import Record
from esper.topics.codec import decode, encode
from esper.topics.models import (
    Blueprint,
    KernelReady,
    Node,
    RunStatus,
    SiteKind,
    SiteSignature,
    TrainingRun,
)

VECTOR = SiteSignature(kind=SiteKind.VECTOR, x=(8,), h=(12,))
IMAGE = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(2, 6, 6), h=(8, 6, 6))
RUN = TrainingRun(
    run_id="run",
    status=RunStatus.OPEN,
    sites={"fc1": VECTOR, "fc2": VECTOR, "conv": IMAGE},
)
ANY = "a" * 64
OTHER = "b" * 64


def record(value: bytes | None) -> Record:
    return Record("blueprint-submitted", 0, 0, 0, None, value)


def linear(blueprint_id: str, width: int, output: str = "widen") -> Blueprint:
    return Blueprint(
        blueprint_id=blueprint_id,
        kind=SiteKind.VECTOR,
        nodes=(
            Node(id="narrow", op="linear", inputs=("h",), args={"out": width}),
            Node(id="widen", op="linear", inputs=("narrow",), args={"out": "D"}),
        ),
        output=output,
    )


# -- which kernels ------------------------------------------------------------------------------


def test_each_blueprint_is_expected_once_at_each_signature_of_its_kind() -> None:
    bottleneck, gated = shipped_named("linear-bottleneck"), shipped_named("gated-conv")
    records = [record(encode(bottleneck)), record(encode(gated)), record(encode(gated))]
    assert expected_kernels(records, RUN) == {
        kernel_id(bottleneck, VECTOR): "linear-bottleneck at vector:12",
        kernel_id(gated, IMAGE): "gated-conv at feature_map:8x6x6",
    }


def test_the_last_blueprint_of_an_id_stands() -> None:
    first, last = linear("one", 2), linear("one", 3)
    assert list(expected_kernels([record(encode(first)), record(encode(last))], RUN)) == [
        kernel_id(last, VECTOR)
    ]


@pytest.mark.parametrize(
    "later",
    [None, b"not json", encode(linear("one", 3, output="narrowest"))],
    ids=["nothing", "unreadable", "ill-formed"],
)
def test_what_is_no_blueprint_supersedes_none(later: bytes | None) -> None:
    stands = linear("one", 2)
    assert list(expected_kernels([record(encode(stands)), record(later)], RUN)) == [
        kernel_id(stands, VECTOR)
    ]


def tombstone(blueprint_id: str) -> Record:
    return Record("blueprint-submitted", 0, 0, 0, blueprint_id.encode(), None)


def test_a_withdrawn_blueprint_is_not_expected() -> None:
    records = [record(encode(linear("one", 2))), record(encode(linear("two", 2))), tombstone("one")]
    assert list(expected_kernels(records, RUN)) == [kernel_id(linear("two", 2), VECTOR)]


def test_a_run_expects_no_more_kernels_than_it_has_places() -> None:
    run = RUN.model_copy(update={"kernels_per_site": 1})
    records = [record(encode(linear("one", 2))), record(encode(linear("two", 2)))]
    assert list(expected_kernels(records, run)) == [kernel_id(linear("one", 2), VECTOR)]


def test_a_later_record_supersedes_the_kernels_of_its_id_unless_it_repeats_them() -> None:
    first = linear("one", 2)
    expected = expected_kernels([record(encode(first)), record(encode(linear("two", 2)))], RUN)
    superseded = {kernel_id(first, VECTOR)}
    assert superseded_kernels(tombstone("one"), expected, RUN) == superseded
    assert superseded_kernels(record(encode(linear("one", 3))), expected, RUN) == superseded
    assert superseded_kernels(record(encode(first)), expected, RUN) == set()
    assert superseded_kernels(record(b"not json"), expected, RUN) == set()
    assert superseded_kernels(tombstone("on"), expected, RUN) == set()


# -- when the run may begin ---------------------------------------------------------------------


class CatalogueHarness:
    """A catalogue, and the frames that it has sent."""

    def __init__(self, *expected: str) -> None:
        self.frames: list[Frame] = []
        self.settled: list[bool] = []
        self.catalogue = Catalogue(
            {entry: f"name of {entry[0]}" for entry in expected},
            self.frames.append,
            lambda: self.settled.append(True),
        )

    @property
    def missing(self) -> Missing:
        return Missing(**[frame for frame in self.frames if frame.kind is Kind.MISSING][-1].head)

    @property
    def offered(self) -> list[str]:
        offers = [frame for frame in self.frames if frame.kind is Kind.KERNEL_VERIFIED]
        return [decode(KernelReady, offer.body).kernel_id for offer in offers]

    @property
    def refused(self) -> list[dict[str, str]]:
        return [frame.head for frame in self.frames if frame.kind is Kind.KERNEL_REFUSED]


def ready(kernel: str) -> KernelReady:
    return KernelReady(
        kernel_id=kernel,
        blueprint_id="any",
        category="any",
        site_signature=VECTOR,
        location="file:any",
        sha256=kernel,
        ed25519_signature="0" * 128,
        bytes=1,
        params=1,
    )


def test_without_blueprints_nothing_is_missing() -> None:
    control_channel = CatalogueHarness()
    control_channel.catalogue.begin()
    assert control_channel.missing == Missing(0, 0, ())


def test_it_says_once_that_no_kernel_is_waited_for() -> None:
    control_channel = CatalogueHarness(ANY, OTHER)
    catalogue = control_channel.catalogue
    catalogue.announced(ANY, earlier=True)
    catalogue.verified(ready(ANY))
    catalogue.begin()
    assert control_channel.settled == []
    catalogue.rejected(OTHER)
    catalogue.rejected(OTHER)
    catalogue.superseded([ANY])
    assert control_channel.settled == [True]


def test_the_first_three_of_those_missing_are_named() -> None:
    control_channel = CatalogueHarness(*(digit * 64 for digit in "abcde"))
    control_channel.catalogue.begin()
    assert control_channel.missing.kernels == control_channel.missing.of == 5
    assert list(control_channel.missing.first) == ["name of a", "name of b", "name of c"]


def test_a_superseded_kernel_is_refused_and_not_waited_for() -> None:
    control_channel = CatalogueHarness(ANY, OTHER)
    control_channel.catalogue.begin()
    control_channel.catalogue.announced(OTHER)
    control_channel.catalogue.superseded({ANY, OTHER})
    assert control_channel.missing.kernels == 1
    control_channel.catalogue.verified(ready(OTHER))
    assert control_channel.missing.kernels == 0
    assert [head["kernel_id"] for head in control_channel.refused] == [ANY]
    assert control_channel.offered == [OTHER]


def test_the_word_that_nothing_is_missing_comes_after_the_last_offer() -> None:
    control_channel = CatalogueHarness(ANY, OTHER)
    assert control_channel.catalogue.announced(ANY, earlier=True)
    control_channel.catalogue.begin()
    control_channel.catalogue.announced(OTHER)
    control_channel.catalogue.verified(ready(ANY))
    assert control_channel.missing.kernels == 1
    control_channel.catalogue.verified(ready(OTHER))
    assert control_channel.offered == [ANY, OTHER]
    assert control_channel.frames[-1].kind is Kind.MISSING
    assert control_channel.missing.kernels == 0


def test_a_kernel_that_no_standing_blueprint_gives_is_neither_verified_nor_offered() -> None:
    control_channel = CatalogueHarness(ANY)
    assert not control_channel.catalogue.announced(OTHER)
    control_channel.catalogue.verified(ready(OTHER))
    assert control_channel.offered == []


def test_a_kernel_is_offered_once() -> None:
    control_channel = CatalogueHarness(ANY)
    control_channel.catalogue.announced(ANY, earlier=True)
    control_channel.catalogue.begin()
    control_channel.catalogue.announced(ANY)
    control_channel.catalogue.verified(ready(ANY))
    assert not control_channel.catalogue.announced(ANY)
    control_channel.catalogue.verified(ready(ANY))
    assert control_channel.offered == [ANY]


def test_a_rejected_kernel_is_no_longer_missing() -> None:
    control_channel = CatalogueHarness(ANY)
    control_channel.catalogue.begin()
    control_channel.catalogue.rejected(ANY)
    assert (control_channel.missing.kernels, control_channel.offered, control_channel.refused) == (
        0,
        [],
        [],
    )


def test_a_kernel_that_cannot_be_loaded_is_no_longer_missing_and_told() -> None:
    control_channel = CatalogueHarness(ANY)
    control_channel.catalogue.begin()
    control_channel.catalogue.announced(ANY)
    control_channel.catalogue.refused(ANY, "altered")
    assert control_channel.refused == [{"kernel_id": ANY, "reason": "altered"}]
    assert control_channel.missing.kernels == 0


def test_the_answer_to_this_run_replaces_an_earlier_announcement_that_cannot_be_loaded() -> None:
    """Its bytes may be gone from the store; the answer may arrive before or after the refusal."""
    for answered_first in (False, True):
        control_channel = CatalogueHarness(ANY)
        control_channel.catalogue.announced(ANY, earlier=True)
        control_channel.catalogue.begin()
        if answered_first:
            control_channel.catalogue.announced(ANY)
            control_channel.catalogue.refused(ANY, "no kernel at file:any")
        else:
            control_channel.catalogue.refused(ANY, "no kernel at file:any")
            control_channel.catalogue.announced(ANY)
        assert control_channel.missing.kernels == 1
        control_channel.catalogue.verified(ready(ANY))
        assert (
            control_channel.offered,
            control_channel.refused,
            control_channel.missing.kernels,
        ) == ([ANY], [], 0)


def test_a_rejection_does_not_overtake_an_announcement_that_was_there_before() -> None:
    for before_it_began in (False, True):
        control_channel = CatalogueHarness(ANY)
        if before_it_began:
            control_channel.catalogue.rejected(ANY)
            control_channel.catalogue.announced(ANY, earlier=True)
            control_channel.catalogue.begin()
        else:
            control_channel.catalogue.announced(ANY, earlier=True)
            control_channel.catalogue.begin()
            control_channel.catalogue.rejected(ANY)
        control_channel.catalogue.verified(ready(ANY))
        assert control_channel.offered == [ANY]
