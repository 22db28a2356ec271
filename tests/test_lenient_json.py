"""JSON that a strict parser refuses is read as far as its meaning is clear."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.lenient_json import NO_REPAIRS, Repairs, loads, loads_counted

LONG = 123456789012345678901234567890


@pytest.mark.parametrize(
    ("data", "value", "repairs"),
    [
        pytest.param(rb'{"a": "x\ud800y"}', {"a": "x\ufffdy"}, Repairs(1, 0), id="high-surrogate"),
        pytest.param(rb'{"a": "\udc00"}', {"a": "\ufffd"}, Repairs(1, 0), id="low-surrogate"),
        pytest.param(
            rb'["\ud83d\ude00", "\ud83d"]', ["\U0001f600", "\ufffd"], Repairs(1, 0), id="pair"
        ),
        pytest.param(
            rb'["\\ud800", NaN]', ["\\ud800", None], Repairs(0, 1), id="escaped-backslash"
        ),
        pytest.param(rb'{"\ud800": 1}', {"\ufffd": 1}, Repairs(1, 0), id="in-a-key"),
        pytest.param(b"[NaN, Infinity, -Infinity, 1e400]", [None] * 4, Repairs(0, 4), id="numbers"),
        pytest.param(b'{"a": "x\x01\n\ty"}', {"a": "x\x01\n\ty"}, NO_REPAIRS, id="control"),
        pytest.param(b'{"a": "\xff"}', {"a": "\ufffd"}, Repairs(1, 0), id="not-utf-8"),
        pytest.param(
            b'{"a": "\xff\xef\xbf\xbd"}', {"a": "\ufffd\ufffd"}, Repairs(1, 0), id="one-of-two"
        ),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', {"a": 1}, NO_REPAIRS, id="byte-order-mark"),
        pytest.param(b'\n\r\n\xef\xbb\xbf {"a": 1}\n', {"a": 1}, NO_REPAIRS, id="blank-lines"),
        pytest.param('{"a": "\ud800"}', {"a": "\ufffd"}, Repairs(1, 0), id="str-with-surrogate"),
    ],
)
def test_what_a_strict_parser_refuses_is_read(data: Any, value: Any, repairs: Repairs) -> None:
    with pytest.raises(ValueError, match=r"."):
        orjson.loads(data)
    assert loads_counted(data) == (value, repairs)
    assert loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"<html>",
        b'{"a": 1',
        b'{"a": 1}{"b": 2}',
        b"[" * 100_000,
        b'{"a": "x',
        b"{'a': 1}",
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(data)


def test_integers_above_64_bits_keep_their_digits_where_asked() -> None:
    data = orjson.dumps({"id": 1}).replace(b"1", str(LONG).encode())
    assert loads(data, exact_integers=True) == {"id": LONG}
    assert isinstance(loads(data)["id"], float)
    nested = f'[{{"a": [{-LONG}, 2.5e30, {2**64}]}}]'
    assert loads(nested, exact_integers=True) == [{"a": [-LONG, 2.5e30, 2**64]}]


def test_an_integer_of_more_digits_than_python_reads_is_null() -> None:
    assert loads_counted(b"[NaN, " + b"9" * 10_000 + b"]") == ([None, None], Repairs(0, 2))


def test_halves_of_surrogate_pairs_in_a_text_are_joined_or_replaced_and_counted() -> None:
    assert loads_counted('"a\ud800b\udfffc"') == ("a\ufffdb\ufffdc", Repairs(2, 0))
    joined = '"a' + chr(0xD83D) + chr(0xDE00) + '"'
    assert loads_counted(joined) == ("a\U0001f600", NO_REPAIRS)
    assert loads_counted('"gr\u00fcn \U0001f600"') == ("gr\u00fcn \U0001f600", NO_REPAIRS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_without_odd_numbers(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_odd_numbers(each) for key, each in value.items()}
    return value


@given(_JSON)
def test_whatever_python_writes_is_read_back(value: Any) -> None:
    assert loads(json.dumps(value), exact_integers=True) == _without_odd_numbers(value)
    raw = json.dumps(value, ensure_ascii=False)
    assert loads(raw.encode("utf-8", "replace"), exact_integers=True) == _without_odd_numbers(value)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_parse_or_raise_a_value_error(data: bytes) -> None:
    try:
        value = loads(data)
    except ValueError:
        return
    orjson.dumps(value)
