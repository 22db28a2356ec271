"""NaN, None, NaT and NA are no value: a named failure, and never the text "nan"."""

from __future__ import annotations

import decimal
from typing import Any

import pytest

from llmflow import LLM
from llmflow.errors import InputError
from llmflow.rows import PromptTemplate
from llmflow.rows.cells import cell, json_line
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

NAN = float("nan")


def asked() -> tuple[LLM, list[str]]:
    """Return an LLM and the prompts that it is asked."""
    prompts: list[str] = []

    def answer(request: Request) -> str:
        prompts.append(str(request.messages[-1]["content"]))
        return "yes"

    return LLM(ScriptedProvider(default=answer)), prompts


def missing_values() -> list[Any]:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    kinds = [
        np.float64("nan"),
        np.float32("nan"),
        np.datetime64("NaT", "s"),
        np.timedelta64("NaT", "s"),
    ]
    return [None, NAN, decimal.Decimal("nan"), pd.NaT, pd.NA, *kinds]


@pytest.mark.parametrize("way", ["items", "template", "dicts", "function"])
def test_in_lists_and_dicts_they_are_failures_that_name_the_item(way: str) -> None:
    llm, prompts = asked()
    values = [*missing_values(), "text"]
    if way == "items":
        results = llm.map_sync(values)
    elif way == "template":
        results = llm.map_sync(values, prompt="About {it}")
    elif way == "dicts":
        results = llm.map_sync([{"it": each} for each in values], prompt="About {it}")
    else:
        results = llm.map_sync(values, prompt=lambda value: value)
    *failed, answered = results
    assert answered.text == "yes"
    assert len(prompts) == 1
    for index, result in enumerate(failed):
        assert isinstance(result.error, InputError), result
        assert f" {index}" in str(result.error)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_in_frames_and_series_of_any_kind_they_are_failures(library: str) -> None:
    module: Any = pytest.importorskip(library)
    llm, prompts = asked()
    frame = module.DataFrame({"x": [1.5, NAN, None], "t": ["a", None, "c"]})
    for column, failures in (("x", [1, 2]), ("t", [1])):
        for items in (frame, frame[column]):
            prompts.clear()
            out = llm.map_sync(items, prompt=f"It is {{{column}}}")
            errors = list(out["error"])
            assert [n for n, each in enumerate(errors) if each is not None] == failures
            assert all("null" in errors[n] for n in failures)
            assert not any("nan" in each.lower() or "none" in each.lower() for each in prompts)


def test_a_polars_row_has_none_for_nan_in_the_prompt_function_too() -> None:
    polars = pytest.importorskip("polars")
    llm, _ = asked()
    seen: list[Any] = []
    frame = polars.DataFrame({"x": [NAN, 2.0], "tags": [["a"], None]})
    llm.map_sync(frame, prompt=lambda row: seen.append(row) or "ask")
    assert sorted(seen, key=str) == [{"x": 2.0, "tags": None}, {"x": None, "tags": ["a"]}]


def test_inside_lists_and_in_tables_they_are_null_or_empty() -> None:
    for value in missing_values():
        assert cell(value) == ""
        assert PromptTemplate("{x}").render({"x": [value, 1]}) == "[null,1]"
        assert json_line({"x": value}) == b'{"x":null}\n'


def test_the_texts_nan_and_none_are_texts() -> None:
    llm, prompts = asked()
    assert llm.map_sync(["nan", "None"], prompt="{it}").texts() == ["yes", "yes"]
    assert sorted(prompts) == ["None", "nan"]
