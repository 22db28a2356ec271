"""Whatever a provider sends is kept, and is nobody else's failure."""

from __future__ import annotations

import asyncio
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import ProviderError
from llmflow.journal import RecordedFailure
from llmflow.types import Response, Usage
from tests.examples import examples
from tests.journal.helpers import answer, key, opened

# All of Unicode, and the halves of pairs that are none.
texts = st.text(st.characters(), max_size=30) | st.text(
    st.characters(categories=["Cs", "Cc", "Lu"]), max_size=10
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


def with_infinities_as_none(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, float) and value in (float("inf"), -float("inf")):
        return None
    return value


@given(text=texts, reason=texts | st.none(), raw=st.dictionaries(texts, values, max_size=4))
@examples(60)
def test_any_text_and_any_reply_come_back(
    text: str, reason: str | None, raw: dict[str, Any]
) -> None:
    first = answer(text=text, finish_reason=reason, model=text, raw=raw)

    async def play(folder: Path) -> None:
        with opened(folder) as journal:
            await asyncio.gather(
                journal.record(key(1), 0, first),
                journal.record(key(2), 0, ProviderError(text, code=reason)),
            )
            found, failure = journal.find(key(1), 0), journal.find(key(2), 0)
        assert found == first
        assert isinstance(found, Response)
        assert set(found.raw) == set(raw)
        for name, value in raw.items():
            if not isinstance(value, (float, list, dict)):
                assert found.raw[name] == value
        assert isinstance(failure, RecordedFailure)
        assert (failure.message, failure.code) == (text, reason)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


@pytest.mark.parametrize(
    "raw",
    [
        {"half": "\ud83d", "whole": "\U0001f600"},
        {"large": 2**200, "small": -(2**64)},
        {"nested": {"a": ["\udfff", 2**70, {"b": None}]}},
        {"nul": "\0", "empty": "", "\ud800": 1},
    ],
)
async def test_what_json_can_say_survives_exactly(tmp_path: Path, raw: dict[str, Any]) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.record(key(), 0, answer(raw=raw))
        found = journal.find(key(), 0)
    assert isinstance(found, Response)
    assert found.raw == raw


async def test_a_reply_that_is_no_json_leaves_the_answer(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with opened(tmp_path / "run") as journal:
        await journal.record(key(1), 0, answer(raw={"object": object(), 5: "number"}))
        await journal.record(key(2), 0, answer(raw=endless))
        assert journal.find(key(1), 0) == answer()
        assert journal.find(key(2), 0) == answer()


async def test_odd_rows_do_not_fail_their_neighbours(tmp_path: Path) -> None:
    odd = [
        answer(text=None),
        answer(usage=Usage(input_tokens=2**80, output_tokens=None)),  # type: ignore[arg-type]
        answer(cost=Decimal("0.5")),
        answer(cost="no number"),
        answer(cost=float("nan")),
        answer(waited=float("nan")),
        answer(attempts=None),
        answer(finish_reason=["stop"]),
        answer(model=5, provider={"a": 1}),
        answer(text="\ud800"),
    ]
    errors = [
        ProviderError("no", status="teapot", attempts=None),  # type: ignore[arg-type]
        ProviderError(None, code=404, retry_after=Decimal(1)),  # type: ignore[arg-type]
    ]
    with opened(tmp_path / "run") as journal:
        await asyncio.gather(
            *(journal.record(key(n), 0, each) for n, each in enumerate(odd)),
            *(journal.record(key(50 + n), 0, each) for n, each in enumerate(errors)),
            *(journal.record(key(100 + n), 0, answer(n)) for n in range(100)),
        )
        assert all(journal.find(key(100 + n), 0) == answer(n) for n in range(100))
        assert all(journal.find(key(n), 0) is not None for n in range(len(odd)))
        assert all(journal.find(key(50 + n), 0) is not None for n in range(len(errors)))
        decimal = journal.find(key(2), 0)
        assert isinstance(decimal, Response)
        assert decimal.cost == 0.5
        await journal.record(key(999), 0, answer())
        assert journal.totals.answers == 101 + len(odd)
