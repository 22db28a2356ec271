"""A filtered answer is a failure with what was written of it, in every session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM, Run
from llmflow.errors import ContentFilterError
from llmflow.rows import RowLayout
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.types import Response, Usage

STOPPED = Response(
    text="Half of a rec\ud83d",
    usage=Usage(input_tokens=3, output_tokens=5),
    finish_reason="content_filter",
    model="model",
    provider="scripted",
    request_id="req-1",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


async def failure(folder: Path, provider: ScriptedProvider) -> ContentFilterError:
    async with Run("filtered", folder=folder):
        with pytest.raises(ContentFilterError) as caught:
            await LLM(provider).complete("Hi")
    return caught.value


def test_a_replayed_failure_has_its_partial_text(folder: Path) -> None:
    error = ContentFilterError("no", code="content_filter", partial_text="Half of a rec\ud83d")
    first = run_virtual(failure(folder, ScriptedProvider([error])))
    again = run_virtual(failure(folder, ScriptedProvider(["never asked"])))
    assert (first.source, again.source) == ("provider", "journal")
    assert first.partial_text == again.partial_text == "Half of a rec\ud83d"


def test_an_answer_that_a_provider_calls_filtered_is_a_failure(folder: Path) -> None:
    first = run_virtual(failure(folder, ScriptedProvider([STOPPED])))
    again = run_virtual(failure(folder, ScriptedProvider(["never asked"])))
    assert first.partial_text == again.partial_text == STOPPED.text
    assert again.request_id == "req-1"


def test_the_failed_row_has_the_partial_text_and_others_have_no_such_field() -> None:
    row: dict[str, Any] = RowLayout().failure({}, ContentFilterError("no", partial_text="Half"), 0)
    assert row["error"]["partial_text"] == "Half"
    assert "partial_text" not in RowLayout().failure({}, ContentFilterError("no"), 0)["error"]
    assert orjson.dumps(row)
