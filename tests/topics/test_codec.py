"""The codec: one canonical form for each event, and errors that name the invalid field."""

import math
import os
import subprocess
import sys
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from esper.topics.catalog import TOPICS
from esper.topics.codec import (
    Undecodable,
    child_traceparent,
    cloud_event_headers,
    decode,
    digest,
    encode,
    new_traceparent,
    sha256_of,
    traceparent_of,
)
from esper.topics.models import (
    AdaptationDecision,
    Blueprint,
    Event,
    Node,
    Plant,
    PolicySpec,
    RunConfig,
    SeedReport,
    SiteKind,
)
from tests.topics.events import EVENTS, any_event

REPORT = SeedReport(run_id="digits", seq=3, step=60, train_loss=0.25)

few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def altered(event: Event, **changes: Any) -> bytes:
    """Return the JSON of an event with fields changed, or without a field changed to `...`."""
    fields = orjson.loads(encode(event)) | changes
    return orjson.dumps({name: value for name, value in fields.items() if value is not ...})


# -- the canonical form -------------------------------------------------------------------------


@few
@given(any_event)
def test_decoding_inverts_encoding(event: Event) -> None:
    value = encode(event)
    decoded = decode(type(event), value)
    assert decoded == event
    assert encode(decoded) == value


@few
@given(any_event)
def test_encoded_keys_are_sorted_at_every_depth_without_white_space(event: Event) -> None:
    value = encode(event)
    assert orjson.dumps(orjson.loads(value), option=orjson.OPT_SORT_KEYS) == value
    assert list(orjson.loads(value)) == sorted(orjson.loads(value))


@few
@given(any_event)
def test_the_order_in_which_fields_arrive_does_not_matter(event: Event) -> None:
    backwards = dict(reversed(orjson.loads(encode(event)).items()))
    assert encode(decode(type(event), orjson.dumps(backwards))) == encode(event)


IN_ANOTHER_PROCESS = """
import sys
from esper.topics.codec import decode, digest
from esper.topics.models import *
for line in sys.stdin.buffer:
    name, value = line.rstrip(b"\\n").split(b" ", 1)
    print(digest(decode(globals()[name.decode()], value)))
"""


def test_equal_events_have_equal_bytes_in_every_process() -> None:
    events: list[Event] = []

    @settings(max_examples=30, database=None, suppress_health_check=list(HealthCheck))
    @given(any_event)
    def collect(event: Event) -> None:
        events.append(event)

    collect()
    lines = b"".join(
        type(event).__name__.encode() + b" " + encode(event) + b"\n" for event in events
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            input=lines,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert digests == {b"".join(digest(event).encode() + b"\n" for event in events)}


def test_the_bytes_of_a_known_report_never_change() -> None:
    """Histories are audited years later, so digests of old records must not change."""
    report = SeedReport(run_id="digits", seq=0, step=0, probe_loss=1e-07)
    assert encode(report) == (
        b'{"closing":false,"kernels":[],"outcomes":[],"probe_loss":1e-7,"refusals":[],'
        b'"run_config":null,"run_id":"digits","seeds":[],"seq":0,"step":0,"train_loss":null}'
    )


def test_a_report_of_contract_2_is_read_with_its_run_config() -> None:
    """Contract 2 called the field `opening`."""
    config = RunConfig(
        seed=1, slots={"fc1": 2}, policy=PolicySpec(), host_params=9, report_interval_steps=5
    )
    report = SeedReport(run_id="digits", seq=0, step=0, run_config=config)
    assert decode(SeedReport, encode(report).replace(b'"run_config"', b'"opening"')) == report


def test_a_linear_ramp_is_left_out_of_the_bytes() -> None:
    plant = Plant(
        site="fc1", slot=0, kernel_id="0" * 64, blueprint_id="film", alpha=1.0, ramp_steps=50
    )
    before = {"op", "site", "slot", "kernel_id", "blueprint_id", "alpha", "ramp_steps"}
    assert orjson.loads(encode(plant)).keys() == before
    cosine = plant.model_copy(update={"ramp": "cosine"})
    assert orjson.loads(encode(cosine)) == orjson.loads(encode(plant)) | {"ramp": "cosine"}


# -- accepted ---------------------------------------------------------------------------


@few
@given(any_event, st.text(min_size=1).map("x-".__add__))
def test_unknown_fields_are_ignored(event: Event, name: str) -> None:
    assert decode(type(event), altered(event, **{name: {"since": "next year"}})) == event


def test_unknown_fields_deep_inside_are_ignored() -> None:
    node = {"id": "mix", "op": "linear", "inputs": ["x"], "colour": "blue"}
    value = {"blueprint_id": "b", "kind": "vector", "nodes": [node], "output": "mix"}
    mix = Node(id="mix", op="linear", inputs=("x",))
    assert decode(Blueprint, orjson.dumps(value)).nodes == (mix,)


def test_fields_with_a_default_may_be_missing() -> None:
    report = decode(SeedReport, b'{"run_id":"digits","seq":0,"step":0}')
    assert report == SeedReport(run_id="digits", seq=0, step=0)


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (model, name)
        for model in EVENTS
        for name, field in model.model_fields.items()
        if field.is_required()
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_missing_required_field_is_an_error_that_names_it(
    model: type[Event], field: str, data: st.DataObject
) -> None:
    event = data.draw(EVENTS[model])
    with pytest.raises(Undecodable, match=f"^{model.__name__}: {field}: Field required$"):
        decode(model, altered(event, **{field: ...}))


# -- refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the record has no value"),
        (b"", "Invalid JSON"),
        (b"not json", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'{"run_id":"a","seq":0,"step":0}{}', "Invalid JSON"),
        (b'{"run_id":"\\ud800","seq":0,"step":0}', "Invalid JSON"),
        (b'{"a":' + b"[" * 100_000, "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
    ],
)
def test_invalid_json_is_an_error_that_names_the_cause(value: bytes | None, message: str) -> None:
    with pytest.raises(Undecodable, match=f"^SeedReport: .*{message}"):
        decode(SeedReport, value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seq": "3"}, "seq"),
        ({"seq": 3.0}, "seq"),
        ({"seq": True}, "seq"),
        ({"seq": -1}, "seq"),
        ({"seq": 1 << 63}, "seq"),
        ({"train_loss": "0.25"}, "train_loss"),
        ({"train_loss": False}, "train_loss"),
        ({"closing": 1}, "closing"),
        ({"kernels": {}}, "kernels"),
        ({"run_id": "Digits"}, "run_id"),
        ({"run_id": "digits\n"}, "run_id"),
        ({"run_id": "../digits"}, "run_id"),
        ({"run_id": "d" * 65}, "run_id"),
    ],
)
def test_a_value_of_another_type_or_range_is_an_error_that_names_the_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Undecodable, match=f"^SeedReport: {field}: "):
        decode(SeedReport, altered(REPORT, **changes))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_non_finite_numbers_are_refused_on_read(number: str) -> None:
    value = f'{{"run_id":"a","seq":0,"step":0,"train_loss":{number}}}'.encode()
    with pytest.raises(Undecodable, match="train_loss: Input should be a finite number"):
        decode(SeedReport, value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_refused_in_constructors(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        SeedReport(run_id="a", seq=0, step=0, probe_loss=number)
    with pytest.raises(ValidationError, match="finite"):
        PolicySpec(params={"exploration": number})


def test_an_operation_without_its_kind_is_refused() -> None:
    decision = b'{"operations":[{"site":"fc","slot":0,"kernel_id":"' + b"0" * 64 + b'"}]}'
    with pytest.raises(Undecodable):
        decode(AdaptationDecision, decision)


@few
@given(st.integers() | st.floats(), st.sampled_from(("seq", "step", "train_loss")))
def test_every_decoded_number_can_be_encoded(number: float, field: str) -> None:
    """An integer of a thousand bits must fail in `decode`, not later in `encode`."""
    text = str(number).replace("nan", "NaN").replace("inf", "Infinity")
    fields = {"run_id": '"a"', "seq": "0", "step": "0"} | {field: text}
    value = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
    try:
        report = decode(SeedReport, value.encode())
    except Undecodable:
        return
    assert decode(SeedReport, encode(report)) == report


@given(number=st.integers())
def test_every_decoded_blueprint_argument_can_be_encoded(number: int) -> None:
    node = f'{{"id":"mix","op":"linear","inputs":["x"],"args":{{"out":{number}}}}}'
    value = f'{{"blueprint_id":"b","kind":"vector","nodes":[{node}],"output":"mix"}}'.encode()
    try:
        blueprint = decode(Blueprint, value)
    except Undecodable:
        return
    assert blueprint.kind is SiteKind.VECTOR
    assert decode(Blueprint, encode(blueprint)) == blueprint


def test_an_error_stays_short_for_long_field_names() -> None:
    """The error becomes a header of the dead letter."""
    args = {"a" * 1_000_000: 1}
    node = {"id": "mix", "op": "linear", "inputs": ["x"], "args": args}
    value = {"blueprint_id": "b", "kind": "vector", "nodes": [node], "output": "mix"}
    with pytest.raises(Undecodable) as message:
        decode(Blueprint, orjson.dumps(value))
    assert len(str(message.value)) < 500


def test_events_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        REPORT.seq = 4  # type: ignore[misc]


# -- headers ------------------------------------------------------------------------------------


def test_headers_are_cloud_events_in_binary_mode() -> None:
    value = encode(REPORT)
    headers = dict(cloud_event_headers("SeedReport", value, source="/esper/run/digits"))
    traceparent = headers.pop("traceparent")
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": sha256_of(value).encode(),
        "ce_source": b"/esper/run/digits",
        "ce_type": b"esper.SeedReport",
        "content-type": b"application/json",
    }
    assert child_traceparent(traceparent.decode()).split("-")[1] in traceparent.decode()


def test_the_same_value_has_the_same_event_id() -> None:
    first, second = (
        dict(cloud_event_headers("SeedReport", b"{}", source=source)) for source in ("/a", "/b")
    )
    assert first["ce_id"] == second["ce_id"]


def test_a_given_traceparent_is_passed_on() -> None:
    parent = new_traceparent()
    headers = cloud_event_headers("SeedReport", b"{}", source="/a", traceparent=parent)
    assert traceparent_of(headers) == parent


def test_without_headers_there_is_no_traceparent() -> None:
    assert traceparent_of(()) is None


def test_a_child_is_another_span_of_the_same_trace() -> None:
    parent = new_traceparent()
    child = child_traceparent(parent)
    assert child != parent
    assert child.split("-")[:2] == parent.split("-")[:2]


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "nonsense",
        f"00-{'g' * 32}-{'1' * 16}-01",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"00-{'1' * 31}-{'1' * 16}-01",
    ],
)
def test_the_child_of_an_invalid_traceparent_starts_a_trace(parent: str | None) -> None:
    version, trace, span, flags = child_traceparent(parent).split("-")
    assert (version, flags) == ("00", "01")
    assert int(trace, 16) and len(trace) == 32
    assert int(span, 16) and len(span) == 16
    assert parent is None or trace not in parent


def test_every_topic_has_a_strategy() -> None:
    assert {topic.model for topic in TOPICS} == set(EVENTS)
