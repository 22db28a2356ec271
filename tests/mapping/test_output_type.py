"""Maps with an output type: values in results, and fields as typed columns of frames."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, create_model, field_serializer

from llmflow import LLM, Batch, Run, partial_results
from llmflow.errors import AuthenticationError, ConfigurationError, InvalidAnswerError
from llmflow.rows.cells import is_missing
from llmflow.rows.records import DETAILS
from llmflow.testing import ScriptedProvider
from llmflow.types import Request
from tests.batch.fakes import FakeProvider, FakeServer
from tests.typed.fourteen import BARE, FOURTEEN

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.dataset")

MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pandas": pandas.DataFrame,
    "polars": polars.DataFrame,
    "pyarrow": pyarrow.table,
}
every_library = pytest.mark.parametrize("library", MAKERS)


class Review(BaseModel):
    sentiment: Literal["good", "bad"]
    score: int
    topics: list[str]


def scripted(*args: Any, **settings: Any) -> ScriptedProvider:
    return ScriptedProvider(*args, sends=("output_schema",), **settings)


def answers(*values: Any) -> LLM:
    """Return an LLM that gives these answers: texts, errors, or what becomes JSON."""
    return LLM(
        scripted(
            [each if isinstance(each, str | Exception) else json.dumps(each) for each in values]
        )
    )


def always(value: Any) -> LLM:
    return LLM(scripted(default=json.dumps(value)))


def by_prompt(**values: Any) -> LLM:
    def answer(request: Request) -> str:
        value = values[str(request.messages[0]["content"])]
        return value if isinstance(value, str) else json.dumps(value)

    return LLM(scripted(default=answer))


def names(frame: Any) -> list[str]:
    return list(frame.schema.names if isinstance(frame, pyarrow.Table) else frame.columns)


def values(frame: Any, name: str) -> list[Any]:
    if isinstance(frame, pandas.DataFrame):
        return [None if is_missing(each) else each for each in frame[name]]
    column = frame[name]
    return list(column.to_pylist() if isinstance(frame, pyarrow.Table) else column.to_list())


def types(frame: Any) -> list[str]:
    if isinstance(frame, pyarrow.Table):
        return [str(each) for each in frame.schema.types]
    return [str(each) for each in frame.dtypes]


GOOD = {"sentiment": "good", "score": 5, "topics": ["plot"]}
BAD = {"sentiment": "bad", "score": 1, "topics": []}


def test_results_have_the_value() -> None:
    results = by_prompt(a=GOOD, b="no JSON").map_sync(["a", "b"], output_type=Review, reasks=0)
    assert results[0].parsed == Review(**GOOD)  # type: ignore[arg-type]
    assert results[0].text == json.dumps(GOOD)
    assert results.parsed(None) == [results[0].parsed, None]
    with pytest.raises(InvalidAnswerError):
        results.parsed()
    with pytest.raises(InvalidAnswerError):
        _ = results[1].parsed


def test_without_an_output_type_there_is_none() -> None:
    results = answers("text").map_sync(["a"])
    assert results[0].parsed is None
    assert results.parsed() == [None]


async def test_streams_have_the_value() -> None:
    llm = always(GOOD)
    assert [each.parsed async for each in llm.map(["a"], output_type=Review)] == [Review(**GOOD)]  # type: ignore[arg-type]


def test_streams_of_synchronous_code_have_the_value() -> None:
    stream = always(GOOD).map_sync(["a"], output_type=int | Review, stream=True)
    assert [each.parsed.score for each in stream] == [5]


@every_library
def test_fields_become_typed_columns_in_order(library: str) -> None:
    frame = MAKERS[library]({"text": ["a", None, "c"]})
    out = by_prompt(a=GOOD, c=BAD).map_sync(frame, prompt="{text}", output_type=Review)
    assert names(out) == ["text", "sentiment", "score", "topics", "error"]
    assert values(out, "sentiment") == ["good", None, "bad"]
    assert values(out, "score") == [5, None, 1]
    assert values(out, "topics") == [["plot"], None, []]
    assert values(out, "error") == [None, "InputError: row 1: field 'text' is null", None]
    wanted = {
        "pandas": ["string", "Int64", "object"],
        "polars": ["String", "Int64", "List(String)"],
        "pyarrow": ["string", "int64", "list<item: string>"],
    }
    assert types(out)[1:4] == wanted[library]


@every_library
def test_a_column_that_is_called_otherwise_takes_the_name_of_no_field(library: str) -> None:
    both = create_model("Both", text=(str, ...), input_text=(str, ...))
    frame = MAKERS[library]({"text": ["a"]})
    llm = always({"text": "b", "input_text": "c"})
    out = llm.map_sync(frame, prompt="{text}", output_type=both)
    assert names(out) == ["input_input_text", "text", "input_text", "error"]
    assert [values(out, name) for name in names(out)] == [["a"], ["b"], ["c"], [None]]


def test_the_output_type_of_the_llm_counts_too() -> None:
    llm = LLM(scripted(default=json.dumps(GOOD)), output_type=Review)
    out = llm.map_sync(polars.DataFrame({"text": ["a"]}), prompt="{text}")
    assert out.columns == ["text", "sentiment", "score", "topics", "error"]


@every_library
def test_what_has_no_fields_is_one_typed_column(library: str) -> None:
    frame = MAKERS[library]({"text": ["a"]})
    for output_type, answer, wanted in (
        (int, 3, {"pandas": "Int64", "polars": "Int64", "pyarrow": "int64"}),
        (Literal["x", "y"], "x", {"pandas": "string", "polars": "String", "pyarrow": "string"}),
        (
            list[float],
            [1.5],
            {"pandas": "object", "polars": "List(Float64)", "pyarrow": "list<item: double>"},
        ),
    ):
        llm = always({"response": answer})
        out = llm.map_sync(frame, prompt="{text}", output_type=output_type)
        assert names(out) == ["text", "response", "error"]
        assert values(out, "response") == [answer]
        assert types(out)[1] == wanted[library]


@every_library
def test_details_come_after_the_fields(library: str) -> None:
    frame = MAKERS[library]({"text": ["a"], "score": [7]})
    out = always(GOOD).map_sync(frame, prompt="{text}", output_type=Review, details=True)
    assert names(out) == ["text", "input_score", "sentiment", "score", "topics", *DETAILS]
    assert values(out, "input_score") == [7]
    assert values(out, "finish_reason") == ["stop"]


@every_library
def test_a_field_with_the_name_of_a_column_of_ours_is_told_apart(library: str) -> None:
    model = create_model("M", error=(str, ...), output_error=(str, ...), cost=(int, ...))
    llm = always({"error": "e", "output_error": "o", "cost": 3})
    frame = MAKERS[library]({"error": ["mine"], "output_error": ["too"]})
    out = llm.map_sync(frame, prompt="{error}", output_type=model)
    assert names(out) == [
        "input_error",
        "input_output_error",
        "output_output_error",
        "output_error",
        "cost",
        "error",
    ]
    assert values(out, "output_output_error") == ["e"]
    assert values(out, "output_error") == ["o"]
    assert values(out, "input_error") == ["mine"]
    assert values(out, "error") == [None]
    out = llm.map_sync(frame, prompt="{error}", output_type=model, details=True)
    assert values(out, "output_cost") == [3]
    assert values(out, "cost") == [None]


@every_library
@pytest.mark.parametrize("kind", [*FOURTEEN, *BARE])
def test_the_types_are_the_same_whatever_the_answers(library: str, kind: str) -> None:
    given: Any = {**FOURTEEN, **BARE}[kind]
    llm = always("this is no answer")
    made = {}
    for texts in ([], ["a"], ["a", "b"]):
        frame = MAKERS[library]({"text": texts})
        if library == "polars":
            frame = frame.cast(polars.String)
        elif library == "pyarrow":
            frame = frame.cast(pyarrow.schema([("text", pyarrow.string())]))
        else:
            frame = frame.astype("string")
        out = llm.map_sync(frame, prompt="{text}", output_type=given, reasks=0)
        made[len(texts)] = dict(zip(names(out), types(out), strict=True))
        if kind != "no properties" and texts:
            assert all(values(out, "error"))
    assert made[0] == made[1] == made[2]


class Invoice(BaseModel):
    day: dt.date
    total: Decimal
    at: dt.datetime
    lines: list[dict[str, int]]
    size: int


INVOICE = {
    "day": "2026-01-02",
    "total": "12345678901234567890.123456789012345678",
    "at": "2026-01-02T03:04:05+02:00",
    "lines": [{"a": 1}],
    "size": 2,
}


@every_library
def test_decimals_are_exact_and_times_are_in_utc(library: str) -> None:
    out = always(INVOICE).map_sync(
        MAKERS[library]({"text": ["a"]}), prompt="{text}", output_type=Invoice
    )
    assert values(out, "error") == [None]
    assert values(out, "total") == [Decimal("12345678901234567890.123456789012345678")]
    assert values(out, "at") == [dt.datetime(2026, 1, 2, 1, 4, 5, tzinfo=dt.UTC)]
    (day,) = values(out, "day")
    assert day == (pandas.Timestamp("2026-01-02") if library == "pandas" else dt.date(2026, 1, 2))
    (lines,) = values(out, "lines")
    assert lines == [{"a": 1}] or json.loads(lines) == [{"a": 1}] or lines == ['{"a":1}']


@every_library
def test_what_fits_no_column_is_null_and_stands_in_error(
    library: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm = by_prompt(a={**INVOICE, "size": 2**70, "total": "1e25"}, b=INVOICE)
    frame = MAKERS[library]({"text": ["a", "b"]})
    with caplog.at_level(logging.WARNING, "llmflow"):
        out = llm.map_sync(frame, prompt="{text}", output_type=Invoice)
    assert values(out, "size") == [None, 2]
    assert values(out, "day")[0] == values(out, "day")[1]
    reason, fine = values(out, "error")
    assert f"size: does not fit a 64-bit integer: {2**70}" in reason
    assert "total: does not fit a decimal of 20 digits" in reason
    assert fine is None
    assert "llm.map: 2 values do not fit the column" in caplog.text


def test_a_hundred_fields_make_no_warning() -> None:
    model = FOURTEEN["100 fields"]
    answer = {
        name: field.annotation() for name, field in model.model_fields.items() if field.annotation
    }
    out = always(answer).map_sync(
        pandas.DataFrame({"text": ["a"]}), prompt="{text}", output_type=model
    )
    assert len(out.columns) == 102
    assert values(out, "field_1") == [0]


async def test_partial_results_have_the_columns_too() -> None:
    llm = LLM(scripted([json.dumps(GOOD), *[AuthenticationError("wrong key")] * 2]))
    frame = polars.DataFrame({"text": ["a", "b"]})
    with pytest.raises(AuthenticationError) as caught:
        await llm.map(frame, prompt="{text}", output_type=Review, concurrency=1)
    partial: Any = partial_results(caught.value)
    assert partial["score"].to_list() == [5, None]
    assert partial.schema["topics"] == polars.List(polars.String)


def test_a_wrong_answer_is_asked_for_again_as_often_as_said() -> None:
    out = answers("no JSON", GOOD).map_sync(["a"], output_type=Review)
    assert out.parsed() == [Review(**GOOD)]  # type: ignore[arg-type]
    out = answers("no JSON", "still none", GOOD).map_sync(["a"], output_type=Review, reasks=2)
    assert out.parsed() == [Review(**GOOD)]  # type: ignore[arg-type]
    out = answers("no JSON", GOOD).map_sync(["a"], output_type=Review, reasks=0)
    assert isinstance(out[0].error, InvalidAnswerError)


def test_a_type_that_cannot_be_one_is_refused_before_anything_is_asked() -> None:
    provider = scripted()
    with pytest.raises(ConfigurationError, match="output_type"):
        LLM(provider).map(["a"], output_type=5)
    with pytest.raises(ConfigurationError, match="reasks"):
        LLM(provider).map_sync(["a"], output_type=int, reasks=-1)
    assert provider.requests == []


async def test_a_batch_map_judges_answers_without_a_task_for_each(tmp_path: Path) -> None:
    rows = 2_000
    first = iter(range(rows))

    def fate(prompt: str, number: int) -> Any:
        again = "not accepted" in prompt
        wrong = not again and next(first) % 10 == 0
        return "no JSON" if wrong else json.dumps(GOOD)

    server, most = FakeServer(fate=fate, looks=3), 0
    provider = FakeProvider(server)
    provider.sends = frozenset({"output_schema"})
    llm = LLM(provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005), output_type=Review)
    frame = polars.DataFrame({"text": [f"{n}" for n in range(rows)]})
    async with Run("run", folder=tmp_path) as run:
        answers = asyncio.ensure_future(_awaited(llm.map(frame, prompt="{text}")))
        while not answers.done():
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0.001)
        done = run.statistics()
    assert answers.result()["score"].to_list() == [5] * rows
    assert answers.result()["error"].null_count() == rows
    assert (done.answered, done.reasked) == (rows, rows // 10)
    asked = sum(server.sizes)
    assert asked == rows + rows // 10
    assert most < rows // 10 + 20
    async with Run("run", folder=tmp_path) as run:
        again = await llm.map(frame, prompt="{text}")
        assert run.statistics().replayed == rows
    assert again.equals(answers.result())
    assert sum(server.sizes) == asked


async def _awaited(answers: Any) -> Any:
    return await answers


def test_an_answer_that_its_type_cannot_write_is_not_lost() -> None:
    class Sealed(BaseModel):
        score: int

        @field_serializer("score")
        def _write(self, value: int) -> int:
            raise KeyError(value)

    out = always({"score": 5}).map_sync(
        polars.DataFrame({"text": ["a"]}), prompt="{text}", output_type=Sealed
    )
    assert out["score"].to_list() == [None]
    assert '{"score": 5}' in out["error"][0]


@every_library
def test_a_series_or_array_becomes_a_frame_with_typed_columns(library: str) -> None:
    items: Any = {
        "pandas": pandas.Series(["a"], name="score", index=[7]),
        "polars": polars.Series("score", ["a"]),
        "pyarrow": pyarrow.array(["a"]),
    }[library]
    out = always(GOOD).map_sync(items, output_type=Review)
    assert names(out)[1:] == ["sentiment", "score", "topics", "error"]
    assert names(out)[0] == ("text" if library == "pyarrow" else "input_score")
    assert values(out, "score") == [5]


def test_a_json_schema_gives_columns_too() -> None:
    schema = {
        "type": "object",
        "properties": {
            "": {"type": "integer"},
            "day": {"type": ["string", "null"], "format": "date"},
            "of any kind": {},
        },
        "required": ["", "day", "of any kind"],
    }
    llm = always({"": 1.0, "day": "2026-01-02", "of any kind": [1, {"a": None}]})
    out = llm.map_sync(polars.DataFrame({"text": ["a"]}), prompt="{text}", output_type=schema)
    assert out.drop("text").row(0) == (1, dt.date(2026, 1, 2), '[1,{"a":null}]', None)


async def test_a_lazy_frame_and_a_dataset_get_them_too() -> None:
    llm = always(GOOD)
    lazy = polars.LazyFrame({"text": ["a", "b"]})
    out = await llm.map(lazy, prompt="{text}", output_type=Review)
    assert type(out) is polars.LazyFrame
    assert out.collect()["score"].to_list() == [5, 5]
    data = pyarrow.dataset.dataset(pyarrow.table({"text": ["a"]}))
    table = await llm.map(data, prompt="{text}", output_type=Review)
    assert table["topics"].to_pylist() == [["plot"]]
