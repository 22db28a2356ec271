"""How answers came about: the columns of a frame, a result's details, and counts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmflow import LLM
from llmflow.errors import ContentFilterError, InvalidRequestError, ServerError, UsageError
from llmflow.rows.records import DETAILS
from llmflow.testing import ScriptedProvider
from llmflow.types import Response, Usage

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pytestmark = pytest.mark.virtual_time

FRAMES = [pandas.DataFrame, polars.DataFrame, polars.LazyFrame]
CUT = Response(
    text="Half of",
    usage=Usage(input_tokens=3, output_tokens=5),
    finish_reason="length",
    model="model-2",
    provider="scripted",
    cost=0.25,
)


def provider() -> ScriptedProvider:
    stopped = ContentFilterError(
        "no", partial_text="Hal", usage=Usage(input_tokens=4, output_tokens=1), cost=0.5
    )
    return ScriptedProvider([CUT, ServerError("oops"), "fine", InvalidRequestError("no"), stopped])


def columns_of(frame: Any) -> dict[str, list[Any]]:
    if isinstance(frame, polars.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, polars.DataFrame):
        return {name: frame[name].to_list() for name in frame.columns}
    frame = frame.astype(object).where(frame.notna(), None)
    return {name: list(frame[name]) for name in frame.columns}


@pytest.mark.parametrize("make", FRAMES)
async def test_a_frame_has_the_columns(make: Any) -> None:
    frame = make({"text": ["a", "b", "c", "d"], "model": ["T", "T", "T", "T"]})
    out = await LLM(provider()).map(frame, prompt="{text}", concurrency=1, details=True)
    columns = columns_of(out)
    assert list(columns) == ["text", "input_model", "response", *DETAILS]
    assert columns["finish_reason"] == ["length", "stop", None, "content_filter"]
    assert columns["model"] == ["model-2", "model", "model", "model"]
    assert columns["output_tokens"] == [5, 1, None, 1]
    assert columns["cost"] == [0.25, None, None, 0.5]
    assert columns["attempts"] == [1, 2, 1, 1]
    assert columns["error"][:2] == [None, None]
    assert columns["error"][2].startswith("InvalidRequestError: ")


@pytest.mark.parametrize("make", FRAMES)
async def test_without_details_a_frame_has_two_columns_more(make: Any) -> None:
    out = await LLM(provider()).map(make({"text": ["a"], "model": ["T"]}), prompt="{text}")
    assert list(columns_of(out)) == ["text", "model", "response", "error"]


async def test_a_series_has_them_too() -> None:
    series = pandas.Series(["a", "b"], name="text")
    out = await LLM(provider()).map(series, concurrency=1, details=True)
    assert list(out.columns) == ["text", "response", *DETAILS]
    assert str(out["input_tokens"].dtype) == "Int64"


def test_the_synchronous_face_has_them_too() -> None:
    out = LLM(provider()).map_sync(pandas.DataFrame({"text": ["a"]}), prompt="{text}", details=True)
    assert list(out["finish_reason"]) == ["length"]


async def test_a_result_says_how_it_came_about_and_counts_what_is_odd(
    caplog: pytest.LogCaptureFixture,
) -> None:
    llm = LLM(ScriptedProvider([CUT, "  ", InvalidRequestError("no")], default="fine"))
    with caplog.at_level(logging.WARNING, "llmflow"):
        results = await llm.map(["a", "b", "c", "d"], concurrency=1, details=True)
    assert list(results[0].details) == list(DETAILS)
    assert results[0].details["finish_reason"] == "length"
    assert results[2].details["error"].startswith("InvalidRequestError: ")
    assert (results.counts.cut, results.counts.empty) == (1, 1)
    assert "3 were answered (1 cut at max_tokens, 1 empty), 1 failed" in str(results.counts)
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "llm.map: 33.3% of the answers were cut: raise max_tokens"


async def test_where_no_answer_is_cut_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "llmflow"):
        results = await LLM(ScriptedProvider()).map(["a"])
    assert caplog.records == []
    assert str(results.counts) == "of 1 item, 1 was answered, 0 failed, 0 have neither"


def test_details_is_yes_or_no() -> None:
    with pytest.raises(UsageError, match="details must be True or False"):
        LLM(ScriptedProvider()).map(["a"], details="all")  # type: ignore[call-overload]
