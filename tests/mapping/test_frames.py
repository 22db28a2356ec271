"""Frames of three libraries: the same kind comes back, with the answers beside the rows."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import pytest

from llmflow import LLM, partial_results
from llmflow.errors import AuthenticationError, InputError
from llmflow.mapping.frames import kind_of
from llmflow.mapping.result import Result
from llmflow.testing import ScriptedProvider
from llmflow.types import Request


def echo(request: Request) -> str:
    return str(request.messages[-1]["content"]).upper()


def shouting() -> LLM:
    return LLM(ScriptedProvider(default=echo))


@pytest.fixture
def pandas() -> Any:
    return pytest.importorskip("pandas")


@pytest.fixture
def polars() -> Any:
    return pytest.importorskip("polars")


@pytest.fixture
def pyarrow() -> Any:
    return pytest.importorskip("pyarrow")


async def test_a_pandas_frame_comes_back_with_its_index_and_two_columns(pandas: Any) -> None:
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "n": [1, 2, 3]}, index=[7, 7, 9])
    out = await shouting().map(frame, prompt="{text}{n}")
    assert type(out) is pandas.DataFrame
    assert list(out.index) == [7, 7, 9]
    assert list(out.columns) == ["text", "n", "response", "error"]
    assert list(out["response"]) == ["A1", "B2", "C3"]
    assert list(out["error"]) == [None] * 3
    assert list(frame.columns) == ["text", "n"]


async def test_what_is_missing_in_pandas_is_null_in_the_prompt(pandas: Any) -> None:
    frame = pandas.DataFrame(
        {
            "text": pandas.Series(["a", None, "c"], dtype="string"),
            "number": [1.5, float("nan"), 3.0],
            "day": pandas.to_datetime(["2026-01-02", None, "2026-01-04"]),
        }
    )
    for column in frame.columns:
        out = await shouting().map(frame, prompt=f"{{{column}}}")
        assert out["response"][1] is None
        assert out["error"][1] == f"InputError: row 1: field '{column}' is null"
        assert out["error"][0] is None
    rows: list[Result[dict[str, Any]]] = []
    async for result in shouting().map(frame, prompt="{text}", ordered=True):
        rows.append(result)  # noqa: PERF401 - as users write it
    assert rows[1].item == {"text": None, "number": None, "day": None}
    assert rows[0].item["number"] == 1.5
    assert rows[0].item["day"] == dt.datetime(2026, 1, 2)  # noqa: DTZ001


async def test_columns_of_our_names_are_kept_under_others(pandas: Any, polars: Any) -> None:
    data = {"response": ["a"], "error": ["b"], "input_error": ["c"]}
    for make in (pandas.DataFrame, polars.DataFrame):
        out = await shouting().map(make(data), prompt="{response}{error}")
        assert list(out.columns) == [
            "input_response",
            "input_input_error",
            "input_error",
            "response",
            "error",
        ]
        assert list(out["response"]) == ["AB"]
        assert list(out["input_response"]) == ["a"]


async def test_a_polars_frame_comes_back_with_two_columns(polars: Any) -> None:
    frame = polars.DataFrame({"text": ["a", None, "c"]})
    out = await shouting().map(frame, prompt="{text}")
    assert type(out) is polars.DataFrame
    assert out.schema == {"text": polars.String, "response": polars.String, "error": polars.String}
    assert out["response"].to_list() == ["A", None, "C"]
    assert out["error"].to_list() == [None, "InputError: row 1: field 'text' is null", None]


async def test_a_lazy_frame_comes_back_lazy(polars: Any) -> None:
    lazy = polars.LazyFrame({"text": ["a", "b"]}).filter(polars.col("text") != "a")
    out = await shouting().map(lazy, prompt="{text}")
    assert type(out) is polars.LazyFrame
    assert out.collect()["response"].to_list() == ["B"]


def test_frames_from_a_script(pandas: Any, polars: Any) -> None:
    llm = shouting()
    out = llm.map_sync(pandas.DataFrame({"text": ["a", "b"]}, index=["x", "y"]), prompt="{text}")
    assert out.loc["y", "response"] == "B"
    assert llm.map_sync(polars.DataFrame({"t": ["a"]}), prompt="{t}")["response"][0] == "A"
    assert llm.map_sync(polars.LazyFrame({"t": ["a"]}), prompt="{t}").collect().height == 1
    stream = llm.map_sync(polars.DataFrame({"t": ["a"]}), prompt="{t}", stream=True)
    assert [(each.item, each.text) for each in stream] == [({"t": "a"}, "A")]


async def test_a_series_becomes_a_frame_with_its_texts_first(pandas: Any, polars: Any) -> None:
    llm = shouting()
    series = pandas.Series(["a", None], index=[3, 5], name="review")
    out = await llm.map(series, prompt="say {it}")
    assert list(out.columns) == ["review", "response", "error"]
    assert list(out.index) == [3, 5]
    assert list(out["response"]) == ["SAY A", None]
    assert out["error"][5] == "InputError: row 1: field 'it' is null"
    assert list((await llm.map(pandas.Series(["a"]))).columns) == ["text", "response", "error"]

    out = await llm.map(polars.Series("review", ["a", None]))
    assert out.columns == ["review", "response", "error"]
    assert out["error"].to_list() == [None, "InputError: item 1 is null"]
    assert (await llm.map(polars.Series(["a"]))).columns == ["text", "response", "error"]


async def test_a_frame_without_rows_or_columns_keeps_its_shape(pandas: Any, polars: Any) -> None:
    out = await shouting().map(pandas.DataFrame({"text": []}), prompt="{text}")
    assert list(out.columns) == ["text", "response", "error"]
    assert len(out) == 0
    out = await shouting().map(pandas.DataFrame(index=[1, 2]), prompt=lambda _: "hi")
    assert list(out["response"]) == ["HI", "HI"]
    out = await shouting().map(polars.DataFrame({"text": []}), prompt="{text}")
    assert out.shape == (0, 3)


def test_a_column_that_is_not_there_is_named_before_anything_is_asked(
    pandas: Any, polars: Any
) -> None:
    for make in (pandas.DataFrame, polars.DataFrame):
        with pytest.raises(InputError, match=r"no field 'txt' \(did you mean 'text'\?\)"):
            shouting().map(make({"text": ["a"]}), prompt="{txt}")
    with pytest.raises(InputError, match="rows are no prompts"):
        shouting().map(pandas.DataFrame({"text": ["a"]}))  # type: ignore[call-overload]
    with pytest.raises(InputError, match="2 columns named 'a'"):
        shouting().map(pandas.DataFrame([["x", "y"]], columns=["a", "a"]), prompt="{a}")


async def test_arrow_comes_back_as_arrow(pyarrow: Any) -> None:
    table = pyarrow.table({"text": ["a", None, "c"], "n": [1, 2, 3], "response": [1.5] * 3})
    for items in (table, table.to_batches()[0]):
        out = await shouting().map(items, prompt="{text}{n}", details=True)
        assert type(out) is type(items)
        assert out.schema.names[:4] == ["text", "n", "input_response", "response"]
        assert out["response"].to_pylist() == ["A1", None, "C3"]
        assert out["error"].to_pylist() == [None, "InputError: row 1: field 'text' is null", None]
        assert str(out.schema.field("attempts").type) == "int64"
        assert out["n"] == items["n"]
        none = await shouting().map(items.slice(0, 0), prompt="{text}")
        assert (type(none), none.num_rows) == (type(items), 0)
        assert none.schema.names[-2:] == ["response", "error"]


async def test_an_arrow_array_becomes_a_table_with_its_texts_first(pyarrow: Any) -> None:
    array = pyarrow.array(["a", None, "c"])
    for items in (array, pyarrow.chunked_array([["a"], [None, "c"]])):
        out = await shouting().map(items, prompt="say {it}")
        assert out.schema.names == ["text", "response", "error"]
        assert out["response"].to_pylist() == ["SAY A", None, "SAY C"]


async def test_what_is_missing_in_arrow_is_null_in_the_prompt(pyarrow: Any) -> None:
    seen: list[Any] = []
    table = pyarrow.table({"x": [1.5, float("nan"), None]})
    await shouting().map(table, prompt=lambda row: seen.append(row["x"]) or "ask")
    assert sorted(seen, key=str) == [1.5, None, None]
    with pytest.raises(InputError, match=r"no field 'y'"):
        shouting().map(table, prompt="{y}")


async def test_half_an_emoji_does_not_break_the_frame(pandas: Any, polars: Any) -> None:
    llm = LLM(ScriptedProvider(default="cut \ud83d"))
    for make in (pandas.DataFrame, polars.DataFrame):
        out = await llm.map(make({"text": ["a"]}), prompt="{text}")
        assert out["response"][0] == "cut \ufffd"


async def test_partial_results_gives_the_frame_as_far_as_it_is_answered(pandas: Any) -> None:
    llm = LLM(ScriptedProvider(["A", *[AuthenticationError("wrong key")] * 2, "C"]))
    frame = pandas.DataFrame({"text": ["a", "b", "c"]})
    with pytest.raises(AuthenticationError) as caught:
        await llm.map(frame, prompt="{text}", concurrency=1)
    partial: Any = partial_results(caught.value)
    assert list(partial["response"]) == ["A", None, None]
    assert list(partial["error"]) == [None] * 3


def test_subclasses_of_frames_are_frames_and_lookalikes_are_not(pandas: Any) -> None:
    class Mine(pandas.DataFrame):
        pass

    class DataFrame:
        pass

    assert kind_of(Mine()) == ("pandas", "DataFrame")
    assert kind_of(DataFrame()) is None
    assert kind_of([]) is None


def test_neither_library_is_imported_for_other_items() -> None:
    code = (
        "import sys; from llmflow import LLM; from llmflow.testing import ScriptedProvider\n"
        "assert LLM(ScriptedProvider()).map_sync(['a']).texts() == ['ok']\n"
        "assert not {'pandas', 'polars', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
