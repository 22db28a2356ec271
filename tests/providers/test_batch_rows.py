"""Whatever stands in a file of results is a row, or is named as none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import ProviderError
from llmflow.provider import BatchAPI
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider
from tests.examples import examples

WORDS = st.sampled_from(
    [
        "error",
        "message",
        "content",
        "choices",
        "type",
        "text",
        "code",
        "usage",
        "status_code",
        "body",
        "succeeded",
        "errored",
        "result",
        "finish_reason",
        "details",
        "metadata",
        "http_status",
        "availability",
        "retry_after",
        "model",
        "id",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-9, 999) | st.floats(allow_nan=False) | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4)
)
RESPONSES = st.fixed_dictionaries(
    {"status_code": st.sampled_from([200, 200, 400, 500, "200", None]), "body": VALUES}
)
OPENAI_ROWS = st.fixed_dictionaries(
    {"custom_id": st.text(max_size=3), "response": RESPONSES | VALUES, "error": st.none() | VALUES}
)
RESULTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["succeeded", "errored", "canceled", "expired"]),
        "message": VALUES,
        "error": VALUES,
    }
)
ANTHROPIC_ROWS = st.fixed_dictionaries({"custom_id": st.text(max_size=3), "result": RESULTS})


def openai() -> BatchAPI:
    api = OpenAIProvider("m", api_key="sk-secret-1234").batch
    assert api is not None
    return api


def check(api: BatchAPI, row: Any) -> None:
    try:
        name, response, error = api.read(orjson.dumps(row))
    except ValueError:
        return
    assert isinstance(name, str)
    assert (response is None) != (error is None)
    assert error is None or isinstance(error, ProviderError)


@examples(300)
@given(OPENAI_ROWS | VALUES)
def test_any_row_of_openais_is_an_answer_an_error_or_no_result(row: Any) -> None:
    check(openai(), row)


@examples(300)
@given(ANTHROPIC_ROWS | VALUES)
def test_any_row_of_anthropics_is_an_answer_an_error_or_no_result(row: Any) -> None:
    check(AnthropicProvider("m", api_key="sk-secret-1234").batch, row)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_row_that_was_cut_off_is_no_result(cut: int) -> None:
    line = b'{"custom_id":"r","response":{"status_code":200,"body":{"choices":[]}},"error":null}'
    with pytest.raises(ValueError, match=r".+"):
        openai().read(line[:-cut])
