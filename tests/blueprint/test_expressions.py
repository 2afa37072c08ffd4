"""Size expressions: what they mean, and that nothing outside their grammar gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.blueprint.expressions import MAX_LENGTH, MAX_SIZE, parse, size, sizes_of, symbols_of
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.topics.models import SiteKind, SiteSignature

SIZES = {"C": 64, "H": 8, "W": 6, "Cx": 32}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("C", 64),
        (" C // 4 ", 16),
        ("C-H-W", 50),
        ("C//H//2", 4),
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("max(8, C//16)", 8),
        ("min(C, Cx, 3*H)", 24),
        ("max(1,min(C,Cx)//8)", 4),
    ],
)
def test_an_expression_has_its_arithmetic_value(text: str, value: int) -> None:
    assert size(text, SIZES) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "C**2",
        "C^2",
        "-C",
        "+1",
        "C C",
        "C//",
        "(C",
        "C)",
        "()",
        "Q",
        "c",
        "max(C)",
        "max()",
        "pow(C,9)",
        "min(C,)",
        "1.5",
        "1e9",
        "C/2",
        "C%3",
        "C if H else W",
        "C.real",
        "__import__('os')",
        "lambda:0",
        "C;H",
        "C\nH",
        "_C",
        "C_",
        "C\x00",
        "٣",
        "C" + "+C" * 32,
        "(" * 20 + "C" + ")" * 20,
    ],
)
def test_text_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        parse(text, frozenset(SIZES))
    assert rejection.value.code is RejectionCode.BAD_EXPRESSION


@pytest.mark.parametrize("text", ["0", "C-C", "H-C", "C//0", "C//(H-8)", f"{MAX_SIZE}+1"])
def test_a_value_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        size(text, SIZES)
    assert rejection.value.code is RejectionCode.BAD_SIZE


def test_a_value_beyond_the_bound_on_the_way_is_refused_even_if_the_end_is_small() -> None:
    with pytest.raises(BlueprintRejected, match="beyond"):
        size("99999999*99999999*99999999//99999999", SIZES)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions made of two others."""
    infix = st.builds("({}{}{})".format, inner, st.sampled_from(("+", "-", "*", "//")), inner)
    return infix | st.builds("{}({}, {})".format, st.sampled_from(("min", "max")), inner, inner)


@given(
    st.recursive(
        st.sampled_from(sorted(SIZES)) | st.integers(0, 99).map(str), combined, max_leaves=8
    )
)
def test_an_expression_means_what_it_means_in_python(text: str) -> None:
    try:
        wanted = eval(text, {"min": min, "max": max}, dict(SIZES))
    except ZeroDivisionError:
        wanted = 0
    if 1 <= wanted <= MAX_SIZE and len(text) <= MAX_LENGTH:
        assert size(text, SIZES) == wanted
    else:
        with pytest.raises(BlueprintRejected):
            size(text, SIZES)


@given(st.text(alphabet="CHWx0123456789+-*/(), minax", max_size=64))
def test_any_text_is_a_size_or_a_rejection(text: str) -> None:
    try:
        value = size(text, SIZES)
    except BlueprintRejected:
        return
    assert 1 <= value <= MAX_SIZE


@given(st.text(max_size=200))
def test_any_unicode_is_a_size_or_a_rejection(text: str) -> None:
    try:
        size(text, SIZES)
    except BlueprintRejected as rejection:
        assert rejection.code in (RejectionCode.BAD_EXPRESSION, RejectionCode.BAD_SIZE)


def test_each_kind_of_site_has_the_symbols_of_its_shapes() -> None:
    assert symbols_of(SiteKind.VECTOR) == {"D", "Dx"}
    assert symbols_of(SiteKind.SEQUENCE) == {"T", "D", "Tx", "Dx"}
    assert symbols_of(SiteKind.FEATURE_MAP) == {"C", "H", "W", "Cx", "Hx", "Wx"}


def test_kinds_together_have_the_symbols_that_all_of_them_have() -> None:
    assert symbols_of(SiteKind.VECTOR, SiteKind.SEQUENCE) == {"D", "Dx"}
    assert symbols_of(SiteKind.VECTOR, SiteKind.FEATURE_MAP) == set()


def test_named_parameters_are_symbols_too() -> None:
    assert size("max(head_2*heads, C)//2", SIZES | {"heads": 8, "head_2": 16}) == 64


def test_symbols_stand_for_the_sizes_of_h_and_those_with_x_for_the_sizes_of_x() -> None:
    site = SiteSignature(kind=SiteKind.FEATURE_MAP, x=(1, 16, 12), h=(8, 14, 10))
    assert sizes_of(site) == {"C": 8, "H": 14, "W": 10, "Cx": 1, "Hx": 16, "Wx": 12}


def test_shapes_of_another_rank_than_the_kind_are_refused() -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        sizes_of(SiteSignature(kind=SiteKind.VECTOR, x=(4, 4), h=(4,)))
    assert rejection.value.code is RejectionCode.WRONG_KIND
