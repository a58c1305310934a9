"""RFC 8785: the numbers of appendix B, the examples of section 3.2, and one byte form per value."""

import json
import math
import struct

import pytest
from fedveil_common import jcs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

# RFC 8785, appendix B: IEEE 754 bits and the JSON form.
APPENDIX_B = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B)
def test_numbers_of_appendix_b(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert jcs.number(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        jcs.dumps([value])


def test_members_are_sorted_by_utf16_code_units() -> None:
    # RFC 8785 section 3.2.3
    value = {
        "€": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "ö": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(jcs.dumps(value))) == ["\r", "1", "\u0080", "ö", "€", "\U0001f600", "\ufb33"]


def test_the_sample_of_section_3_2() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\u000f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert jcs.dumps(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"1e999", b"\xff", b"\xef\xbb\xbf1", b"[" * 100_000, b"{} {}", b""],
)
def test_strict_reading_refuses(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is the contract
        jcs.loads(data)


def test_what_can_be_read_and_not_written_again_is_refused_like_the_rest() -> None:
    """Reading goes deeper than writing: whoever compares both must not be stopped by a value in between."""
    with pytest.raises(ValueError, match="nested"):
        jcs.dumps(jcs.loads(b"[" * 700 + b"]" * 700))


def test_integers_beyond_a_double_and_lone_surrogates_are_refused() -> None:
    for value in (2**53, -(2**53), "\ud800"):
        with pytest.raises(ValueError):  # noqa: PT011
            jcs.dumps(value)
    with pytest.raises(TypeError):
        jcs.dumps({1: 2})  # type: ignore[dict-item]


@CALM
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_exactly(value: float) -> None:
    assert float(json.loads(jcs.number(value))) == value
    assert jcs.loads(jcs.number(value).encode()) == value
    assert float(jcs.number(value)) == value


leaves = (
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text("abä€\U0001f600"), inner), max_leaves=20
)


@CALM
@given(values)
def test_canonical_bytes_are_a_fixed_point(value: jcs.Json) -> None:
    data = jcs.dumps(value)
    assert jcs.loads(data) == value
    assert jcs.dumps(jcs.loads(data)) == data
