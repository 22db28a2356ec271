"""Outputs beside the text are kept, by kind, in the journal and in the cache."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, Run
from llmflow.cache import Cache
from llmflow.errors import JournalError
from llmflow.journal.rows import KEY_COLUMNS, answer_row, response_of
from llmflow.journal.schema import NAME
from llmflow.parts import Parsed, ToolCall, Vector
from llmflow.testing import ScriptedProvider
from llmflow.types import Response
from tests.examples import examples
from tests.journal.helpers import answer, key, opened
from tests.test_parts import EXAMPLES, OUTPUTS, outputs


async def from_journal(response: Response, folder: Path, **options: Any) -> Any:
    with opened(folder, **options) as journal:
        await journal.record(key(), 0, response)
    with opened(folder) as journal:
        return journal.find(key(), 0)


async def from_cache(response: Response, folder: Path) -> Any:
    with closing(Cache(folder / "cache.db")) as cache:
        await cache.store(key(), response)
    with closing(Cache(folder / "cache.db")) as cache:
        return await cache.find(key())


def selected(folder: Path, column: str) -> Any:
    (path,) = folder.rglob(NAME)
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT {column} FROM answers").fetchone()[0]


@pytest.mark.parametrize("kind", OUTPUTS)
async def test_each_kind_comes_back_from_journal_and_cache(kind: str, tmp_path: Path) -> None:
    response = answer(outputs=(EXAMPLES[kind], EXAMPLES[kind]))
    for found in (
        await from_journal(response, tmp_path / "one"),
        await from_cache(response, tmp_path / "two"),
    ):
        assert found == response
        assert found.raw == response.raw
        assert type(found.outputs[0]) is type(EXAMPLES[kind])


@given(values=st.lists(outputs, max_size=4).map(tuple), raw=st.booleans())
@examples(40)
def test_any_outputs_come_back(values: tuple[Any, ...], raw: bool) -> None:
    response = answer(outputs=values, **({} if raw else {"raw": {}}))
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(from_journal(response, Path(folder)))
        assert (found, found.raw) == (response, response.raw)
        assert asyncio.run(from_cache(response, Path(folder))) == response


async def test_a_run_that_keeps_answers_only_keeps_their_outputs(tmp_path: Path) -> None:
    response = answer(outputs=(EXAMPLES["tool_call"],))
    found = await from_journal(response, tmp_path, store="answers")
    assert (found.outputs, found.raw) == (response.outputs, {})


async def test_outputs_are_kept_where_the_reply_cannot_be(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    response = answer(outputs=(EXAMPLES["vector"],), raw=endless)
    found = await from_journal(response, tmp_path)
    assert (found.outputs, found.raw) == (response.outputs, {})


def test_an_answer_without_outputs_is_stored_as_before() -> None:
    raw = answer_row(key(), 0, 1, 0.0, answer(raw={"id": 1}), whole=True)[-1]
    assert raw == '{"id":1}'
    assert answer_row(key(), 0, 1, 0.0, answer(raw={"id": 1}), whole=False)[-1] is None


def test_a_server_cannot_forge_outputs() -> None:
    sent = orjson.loads(b'{"0": [{"kind": "tool_call"}], "1": {}}')
    row = answer_row(key(), 0, 1, 0.0, answer(raw=sent), whole=True)
    found = response_of(row[KEY_COLUMNS:])
    assert (found.outputs, found.raw) == ((), sent)


@pytest.mark.parametrize("written", [{"kind": "smell"}, {"kind": "parsed", "unit": 1}, {}])
def test_an_output_of_a_newer_llmflow_is_told(written: dict[str, Any]) -> None:
    row = answer_row(key(), 0, 1, 0.0, answer(), whole=True)
    raw = orjson.dumps([[written], {}]).decode()
    with pytest.raises(JournalError, match="install a newer llmflow"):
        response_of((*row[KEY_COLUMNS:-1], raw))


async def test_tool_calls_and_vectors_are_replayed(tmp_path: Path) -> None:
    told = (ToolCall(id="1", name="a", arguments={"b": [1]}), Vector.of([1.5]), Parsed(value=1))
    provider = ScriptedProvider([answer(text="", outputs=told)])
    for source in ("provider", "journal"):
        async with Run("tools", folder=tmp_path) as run:
            found = await LLM(provider).complete("Hi")
            assert run.statistics().empty == 0
        assert (found.source, found.outputs) == (source, told)
    assert (found.tool_calls, found.vectors, found.parsed) == (told[:1], told[1:2], 1)
    assert selected(tmp_path, "raw->>'$[0][0].name'") == "a"
