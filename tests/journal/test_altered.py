"""What was altered on disk is not taken for what was written, and what was not altered is."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import tempfile
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import ContentFilterError, RateLimitError
from llmflow.journal import Journal, schema
from llmflow.journal.reading import Lookup
from llmflow.journal.rows import ANSWER_COLUMNS, FAILURE_COLUMNS
from tests.examples import examples
from tests.journal.helpers import answer, key, opened
from tests.journal.test_odd_values import texts, values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a journal that holds five answers and a failure."""

    async def fill() -> None:
        with opened(tmp_path / "run") as journal:
            journal.begin({})
            for number in range(5):
                await journal.record(key(number), 0, answer(number))
            error = ContentFilterError("no", status=400, code="filter", partial_text="half of it")
            await journal.record(key(9), 0, error)

    asyncio.run(fill())
    return tmp_path / "run"


def alter(folder: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / schema.NAME, isolation_level=None)) as connection:
        connection.execute(statement, values)


def count(folder: Path, table: str = "answers") -> int:
    with closing(sqlite3.connect(folder / schema.NAME)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def found(journal: Journal) -> list[bool]:
    return [journal.find(key(number), 0) is not None for number in range(5)]


def test_a_byte_that_changed_in_the_file_is_found(folder: Path) -> None:
    path = folder / schema.NAME
    whole = path.read_bytes()
    assert whole.count(b"answer 3") == 2, "in the text, and in the whole reply"
    path.write_bytes(whole.replace(b"answer 3", b"answer 8", 1))
    with opened(folder) as journal:
        assert found(journal) == [True, True, True, False, True]
        assert journal.find(key(3), 0) is None
        assert journal.altered == 1, "once, however often it is looked at"
    assert journal.altered == 1


@pytest.mark.parametrize("column", ANSWER_COLUMNS[2:])
def test_every_column_of_an_answer_is_checked(folder: Path, column: str) -> None:
    alter(folder, f"UPDATE answers SET {column} = 7 WHERE fingerprint = ?", key(2))
    with opened(folder) as journal:
        assert found(journal) == [True, True, False, True, True]
        assert journal.altered == 1


def test_an_answer_is_not_taken_for_that_of_another_call(folder: Path) -> None:
    alter(folder, "UPDATE answers SET ordinal = 1 WHERE fingerprint = ?", key(2))
    alter(folder, "UPDATE answers SET fingerprint = ? WHERE fingerprint = ?", key(50), key(3))
    with opened(folder) as journal:
        assert found(journal) == [True, True, False, False, True]
        assert journal.find(key(2), 1) is None
        assert journal.find(key(50), 0) is None
        assert journal.altered == 2


@pytest.mark.parametrize(
    "column", [each for each in FAILURE_COLUMNS if each not in ("fingerprint", "ordinal")]
)
def test_every_column_of_a_failure_is_checked(folder: Path, column: str) -> None:
    alter(folder, f"UPDATE failures SET {column} = 7")
    with opened(folder) as journal:
        assert journal.find(key(9), 0) is None
        assert journal.altered == 1


@pytest.mark.parametrize("column", ["text", "model", "raw"])
def test_text_that_is_no_text_any_more_is_found(folder: Path, column: str) -> None:
    alter(folder, f"UPDATE answers SET {column} = CAST(x'61ff62' AS TEXT) WHERE id = 2")
    with opened(folder) as journal:
        assert found(journal) == [True, False, True, True, True]
        assert journal.altered == 1
    with closing(Lookup.open(folder)) as lookup:  # type: ignore[type-var]
        assert lookup.find(key(1), 0) is not None, "a plan reads no texts"  # type: ignore[union-attr]


async def test_what_is_asked_again_takes_its_place(folder: Path) -> None:
    alter(folder, "UPDATE answers SET text = 'something else' WHERE id IN (2, 5)")
    with opened(folder) as journal:
        assert found(journal) == [True, False, True, True, False]
        await journal.record(key(1), 0, answer(11))
        assert journal.find(key(1), 0) == answer(11)
        assert journal.totals.answers == 5
        assert journal.totals.cost == 1.5, "it was paid for twice"
    assert count(folder) == 5, "the other one is left until it is answered"
    with opened(folder) as journal:
        assert found(journal) == [True, True, True, True, False]
        await journal.record(key(4), 0, answer(14))
    with opened(folder) as journal:
        assert found(journal) == [True] * 5
        assert (journal.altered, journal.totals.answers) == (0, 5)


async def test_a_failure_that_was_altered_is_replaced_by_whatever_comes(folder: Path) -> None:
    for outcome in ("failure", "answer"):
        alter(folder, "UPDATE failures SET message = 'altered'")
        with opened(folder) as journal:
            assert journal.find(key(9), 0) is None
            if outcome == "failure":
                await journal.record(key(9), 0, RateLimitError("again"))
                assert getattr(journal.find(key(9), 0), "message", "") == "again"
                assert journal.totals.failures == 1
            else:
                await journal.record(key(9), 0, answer(9))
                assert journal.find(key(9), 0) == answer(9)
                assert journal.totals.failures == 0
    assert count(folder, "failures") == 0


async def test_an_answer_for_several_is_asked_again_by_all_of_them(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, answer(), uses=3)
    alter(tmp_path / "run", "UPDATE answers SET text = 'x'")
    with opened(tmp_path / "run") as journal:
        assert [journal.find(key(), nth) for nth in range(3)] == [None] * 3
        for nth in range(3):
            await journal.record(key(), nth, answer(nth))
        assert [journal.find(key(), nth) for nth in range(3)] == [answer(n) for n in range(3)]
        assert (journal.altered, journal.totals.answers) == (1, 3)


async def test_a_whole_group_is_replaced_at_once(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await asyncio.gather(*(journal.record(key(n), 0, answer(n)) for n in range(300)))
    alter(tmp_path / "run", "UPDATE answers SET output_tokens = 1 WHERE id % 3 = 0")
    with opened(tmp_path / "run") as journal:
        missing = [n for n in range(300) if journal.find(key(n), 0) is None]
        assert len(missing) == journal.altered == 100
        await asyncio.gather(*(journal.record(key(n), 0, answer(n)) for n in missing))
        assert journal.totals.answers == 300
    with opened(tmp_path / "run") as journal:
        assert all(journal.find(key(n), 0) == answer(n) for n in range(300))
        assert journal.altered == 0


def test_a_checksum_that_was_taken_away_is_an_alteration(folder: Path) -> None:
    alter(folder, "UPDATE answers SET checksum = NULL WHERE id = 4")
    with opened(folder) as journal:
        assert found(journal) == [True, True, True, False, True]
        assert journal.altered == 1


@given(
    text=texts,
    reason=texts | st.none(),
    cost=st.floats() | st.integers(-3, 3) | st.none() | st.just(-0.0) | st.just(Decimal("0.1")),
    waited=st.floats() | st.integers(0, 3) | st.just(-0.0),
    number=st.integers() | st.booleans() | st.floats(allow_nan=False) | st.none() | st.text(),
    word=texts | st.none() | st.integers() | st.booleans() | st.floats(),
    raw=st.dictionaries(texts, values, max_size=3),
)
@examples(150)
def test_nothing_that_a_provider_may_send_looks_altered(
    text: str, reason: Any, cost: Any, waited: Any, number: Any, word: Any, raw: dict[str, Any]
) -> None:
    first = answer(text=text, finish_reason=reason, cost=cost, waited=waited, model=word, raw=raw)
    odd = answer(attempts=number, request_id=word, raw=raw)
    error = RateLimitError(text, code=word, status=number, retry_after=cost, model=reason)

    async def play(folder: Path) -> None:
        with opened(folder) as journal:
            await asyncio.gather(
                journal.record(key(1), 0, first),
                journal.record(key(2), 0, odd),
                journal.record(key(3), 0, error),
                journal.record(key(4), 0, answer(4)),
            )
        with opened(folder) as journal:
            assert all(journal.find(key(number), 0) is not None for number in (1, 2, 3, 4))
            assert journal.altered == 0

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


async def test_numbers_that_sqlite_keeps_otherwise_are_no_alteration(tmp_path: Path) -> None:
    odd = [answer(cost=cost) for cost in (math.nan, -0.0, 0, 3, math.inf, 1e300, None)]
    with opened(tmp_path / "run") as journal:
        for number, each in enumerate(odd):
            await journal.record(key(number), 0, each)
        assert all(journal.find(key(number), 0) is not None for number in range(len(odd)))
        assert journal.altered == 0
