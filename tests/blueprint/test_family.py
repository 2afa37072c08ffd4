"""Families: one blueprint with named parameters, and its members."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.blueprint import BlueprintRejected, RejectionCode, check, kernel_id, member, resolve
from esper.blueprint.family import values_at
from esper.topics.codec import decode, encode
from esper.topics.models import Blueprint, Node, Parameter, SiteKind, SiteSignature


def family(
    default: int | str = "max(2, D//4)", values: dict[str, int] | None = None, **bounds: int
) -> Blueprint:
    """A bottleneck of a width that may be chosen."""
    down = Node(id="down", op="linear", inputs=("h",), args={"out": "width"})
    up = Node(id="up", op="linear", inputs=("down",), args={"out": "D"})
    return Blueprint(
        blueprint_id="family",
        kind=(SiteKind.VECTOR, SiteKind.SEQUENCE),
        parameters={"width": Parameter(default=default, **bounds)},
        values=values or {},
        nodes=(down, up),
        output="up",
    )


def width_at(blueprint: Blueprint, features: int) -> int:
    site = SiteSignature(kind=SiteKind.VECTOR, x=(3,), h=(features,))
    (width,) = resolve(blueprint, site).nodes[0].output
    return width


def fault_of(blueprint: Blueprint) -> BlueprintRejected:
    with pytest.raises(BlueprintRejected) as rejection:
        check(blueprint)
    return rejection.value


def test_a_default_follows_the_site() -> None:
    assert [width_at(family(), features) for features in (4, 64)] == [2, 16]
    assert width_at(family(default=7), 64) == 7


def test_a_default_that_is_an_expression_is_brought_within_the_range() -> None:
    bounded = family(default="D//4", least=3, most=8)
    assert [width_at(bounded, features) for features in (4, 20, 4096)] == [3, 5, 8]


def test_a_chosen_value_replaces_the_default() -> None:
    assert width_at(family(values={"width": 5}), 64) == 5


def test_a_member_has_an_id_of_its_own_and_is_a_blueprint_like_any() -> None:
    narrow = member(family(), {"width": 3})
    assert narrow.blueprint_id == "family.width-3"
    assert width_at(decode(Blueprint, encode(narrow)), 64) == 3
    assert kernel_id(narrow, None) != kernel_id(family(), None)
    assert member(family(), {}) == family()


def test_a_member_whose_id_would_be_too_long_is_refused() -> None:
    long = family().model_copy(update={"blueprint_id": "f" * 60})
    with pytest.raises(BlueprintRejected, match="no member can have the id"):
        member(long, {"width": 3})


@pytest.mark.parametrize("values", [{"width": 0}, {"width": 2**20 + 1}, {"depth": 1}])
def test_there_is_no_member_outside_the_family(values: dict[str, int]) -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        member(family(), values)
    assert rejection.value.code is RejectionCode.BAD_PARAMETER
    assert next(iter(values)) in rejection.value.message


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"least": 0}, RejectionCode.BAD_PARAMETER),
        ({"least": -3}, RejectionCode.BAD_PARAMETER),
        ({"least": 9, "most": 8}, RejectionCode.BAD_PARAMETER),
        ({"most": 2**20 + 1}, RejectionCode.BAD_PARAMETER),
        ({"default": 9, "most": 8}, RejectionCode.BAD_PARAMETER),
        ({"default": 0}, RejectionCode.BAD_PARAMETER),
        ({"default": "3*3", "most": 8}, RejectionCode.BAD_PARAMETER),
        ({"default": "width"}, RejectionCode.BAD_EXPRESSION),
        ({"default": "C"}, RejectionCode.BAD_EXPRESSION),
        ({"default": "T"}, RejectionCode.BAD_EXPRESSION),
        ({"default": "D**D"}, RejectionCode.BAD_EXPRESSION),
        ({"values": {"width": 9}, "most": 8}, RejectionCode.BAD_PARAMETER),
        ({"values": {"depth": 1}}, RejectionCode.BAD_PARAMETER),
    ],
)
def test_a_wrong_family_is_refused_whatever_the_site(
    changes: dict[str, Any], code: RejectionCode
) -> None:
    assert fault_of(family(**changes)).code is code


@pytest.mark.parametrize("name", ["min", "max"])
def test_a_parameter_cannot_be_called_like_a_function(name: str) -> None:
    odd = family().model_copy(update={"parameters": {name: Parameter(default=1)}})
    assert fault_of(odd).code is RejectionCode.BAD_PARAMETER


def test_a_parameter_that_no_size_uses_is_refused() -> None:
    idle = family().model_copy(
        update={"parameters": {**family().parameters, "depth": Parameter(default=1)}}
    )
    rejection = fault_of(idle)
    assert rejection.code is RejectionCode.BAD_PARAMETER
    assert "'depth'" in rejection.message


def test_a_default_that_has_no_value_at_a_site_is_refused_there() -> None:
    with pytest.raises(BlueprintRejected, match="parameter 'width'") as rejection:
        width_at(family(default="8//(D-1)"), 1)
    assert rejection.value.code is RejectionCode.BAD_SIZE
    assert width_at(family(default="8//(D-1)", values={"width": 3}), 1) == 3


@given(st.integers(1, 2**20), st.integers(1, 2**20), st.integers(1, 2**20))
def test_the_value_at_a_site_is_always_within_the_range(
    features: int, bound: int, other: int
) -> None:
    least, most = sorted((bound, other))
    ranged = family(default="max(2, D//4)", least=least, most=most)
    assert least <= values_at(ranged, {"D": features})["width"] <= most


def test_a_member_may_be_chosen_for_several_kinds_but_only_with_sizes_that_all_have() -> None:
    site = SiteSignature(kind=SiteKind.SEQUENCE, x=(5, 3), h=(5, 64))
    assert resolve(family(), site).nodes[0].output == (5, 16)
    mapped = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(5, 3, 3), h=(5, 3, 3))
    with pytest.raises(BlueprintRejected) as rejection:
        resolve(family(), mapped)
    assert rejection.value.code is RejectionCode.WRONG_KIND
