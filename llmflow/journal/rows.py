"""Answers and failures as rows of a table with checksums, and back.

What a provider sends is foreign. Values are bound as they come, which is cheap; only when
SQLite refuses a row is each of its values made `plain`.

A disk, a copy or a person can change what SQLite cannot know to be wrong. CRC-32 finds that;
it is no protection against somebody who writes a new checksum, too. A row is checked as SQLite
gives it back. Nearly all rows are text and numbers that come back as they were bound; others
are made `plain` before they are bound, and after that they do, too.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Final, TypeVar
from zlib import crc32

import orjson

from llmflow import errors
from llmflow.errors import JournalError, ProviderError
from llmflow.journal.protocol import RecordedFailure
from llmflow.parts import Output, plain, value_of
from llmflow.types import Response, Usage

Row = tuple[Any, ...]
_T = TypeVar("_T")

_KEY: Final = {
    "fingerprint": "BLOB NOT NULL",
    "ordinal": "INTEGER NOT NULL",
    "uses": "INTEGER NOT NULL",
    "at": "REAL NOT NULL",
}
ANSWERS: Final = _KEY | {
    "text": "TEXT NOT NULL",
    "finish_reason": "TEXT",
    "model": "TEXT",
    "provider": "TEXT",
    "request_id": "TEXT",
    "input_tokens": "INTEGER NOT NULL",
    "output_tokens": "INTEGER NOT NULL",
    "cached_tokens": "INTEGER NOT NULL",
    "reasoning_tokens": "INTEGER NOT NULL",
    "cache_write_tokens": "INTEGER NOT NULL",
    "cache_write_1h_tokens": "INTEGER NOT NULL",
    "cost": "REAL",
    "attempts": "INTEGER NOT NULL",
    "waited": "REAL",
    "raw": "TEXT",
}
"""The columns of the answers' table, with their types."""
FAILURES: Final = _KEY | {
    "error": "TEXT NOT NULL",
    "message": "TEXT NOT NULL",
    "provider": "TEXT",
    "model": "TEXT",
    "status": "INTEGER",
    "code": "TEXT",
    "request_id": "TEXT",
    "retry_after": "REAL",
    "dimension": "TEXT",
    "attempts": "INTEGER NOT NULL",
    "partial_text": "TEXT",
}
"""Those of the failures' table."""
ANSWER_COLUMNS: Final = tuple(ANSWERS)
FAILURE_COLUMNS: Final = tuple(FAILURES)
CHECKSUM: Final = "checksum"
KEY_COLUMNS: Final = 3
"""How many columns come before those that `response_of` and `failure_of` read."""
INPUT_TOKENS, OUTPUT_TOKENS, COST = map(
    ANSWER_COLUMNS.index, ("input_tokens", "output_tokens", "cost")
)
ANSWER_ATTEMPTS, FAILURE_ATTEMPTS = ANSWER_COLUMNS.index("attempts"), 13
_texts_of: Final = attrgetter(*ANSWER_COLUMNS[4:9])
_tokens_of: Final = attrgetter(*ANSWER_COLUMNS[9:15])
_rest_of: Final = attrgetter(*ANSWER_COLUMNS[15:18])
_of_error: Final = attrgetter(*FAILURE_COLUMNS[5:-1])
_NOTHING: Final = b"{}"
"""What cannot be written as JSON at all."""
_LARGEST: Final = 2**63 - 1
_TYPES: Final = ANSWERS | FAILURES
_pack: Final = struct.Struct("<qqdqqqqqqdqd").pack
_SIZES: Final = (128, 32, 8, 1)
_NOT_PLAIN: Final = (TypeError, ValueError, struct.error, OverflowError)


def answer_row(
    fingerprint: bytes, ordinal: int, uses: int, at: float, response: Response, *, whole: bool
) -> Row:
    """Return the row of an answer; `whole`: with the provider's whole reply."""
    if response.outputs:
        raw: str | bytes | None = _with_outputs(response, whole=whole)
    else:
        raw = to_json(response.raw) if whole and response.raw else None
    texts, tokens, rest = _texts_of(response), _tokens_of(response.usage), _rest_of(response)
    return (fingerprint, ordinal, uses, at, *texts, *tokens, *rest, raw)


def _with_outputs(response: Response, *, whole: bool) -> str | bytes:
    """Return a list of an answer's outputs and of its reply, as JSON."""
    outputs = list(map(plain, response.outputs))
    text = to_json([outputs, response.raw if whole else {}])
    return to_json([outputs, {}]) if text == _NOTHING else text


def response_of(row: Sequence[Any]) -> Response:
    """Return the answer that a row holds; its columns begin with ``at``.

    Raises:
        JournalError: it has an output of a kind that this version does not know.
    """
    _, text, reason, model, provider, request = row[:6]
    read, written, cached, thought, put, put_1h, cost, attempts, waited, raw = row[6:]
    if bytes in (type(text), type(reason), type(model), type(provider), type(request)):
        text, reason, model, provider, request = map(_text, row[1:6])
    reply = {} if raw is None else from_json(raw)
    outputs: tuple[Output, ...] = ()
    if type(reply) is list:  # no provider's reply is one: it is what `_with_outputs` has made
        outputs, reply = _outputs(reply[0]), reply[1]
    return Response(
        text=text,
        usage=Usage(
            input_tokens=read,
            output_tokens=written,
            cached_tokens=cached,
            reasoning_tokens=thought,
            cache_write_tokens=put,
            cache_write_1h_tokens=put_1h,
        ),
        finish_reason=reason,
        model=model,
        provider=provider,
        request_id=request,
        cost=cost,
        attempts=attempts,
        waited=waited or 0.0,
        source="journal",
        outputs=outputs,
        raw=reply,
    )


def plain_text_of(row: Sequence[Any]) -> str | None:
    """Return the text of an answer that is not odd, or None."""
    _, text, reason, *_ = row
    is_plain = type(text) is str and reason == "stop" and text and not text.isspace()
    return text if is_plain else None


def _outputs(written: Sequence[Mapping[str, Any]]) -> tuple[Output, ...]:
    try:
        return tuple(map(value_of, written))
    except (LookupError, TypeError, ValueError) as error:
        raise JournalError(
            f"an answer has an output that this llmflow cannot read ({error}): "
            "install a newer llmflow"
        ) from error


def failure_row(
    fingerprint: bytes, ordinal: int, uses: int, at: float, error: ProviderError
) -> Row:
    """Return the row of a failure."""
    partial_text = getattr(error, "partial_text", None) or None
    return (fingerprint, ordinal, uses, at, _kind(error), *_of_error(error), partial_text)


def failure_of(row: Sequence[Any]) -> RecordedFailure:
    """Return the failure that a row holds; its columns begin with ``at``."""
    named = dict(zip(FAILURE_COLUMNS[KEY_COLUMNS:], map(_text, row), strict=True))
    return RecordedFailure(kind=named.pop("error"), **named)


def plain_row(row: Row, columns: Sequence[str]) -> Row:
    """Return a row with values that SQLite can store."""
    return tuple(map(_plain, row, columns))


def to_json(value: Any) -> str | bytes:
    """Return a value as JSON text, or as bytes if unencodable."""
    try:
        return orjson.dumps(value, default=_described).decode()
    except TypeError:
        pass
    try:  # what JSON can say and orjson cannot: half a surrogate pair, a large number
        text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError):
        return _NOTHING


def from_json(text: str | bytes) -> Any:
    """Return what `to_json` was given."""
    return orjson.loads(text) if isinstance(text, str) else json.loads(text)


def _described(value: Any) -> Any:
    """Return what stands for an object in a client's reply."""
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")


def _kind(error: ProviderError) -> str:
    """Return the name of the nearest class that every llmflow knows."""
    for each in type(error).__mro__:
        if getattr(errors, each.__name__, None) is each:
            return str(each.__name__)
    return "ProviderError"


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _plain(value: Any, column: str) -> Any:
    kind, _, needed = _TYPES[column].partition(" ")
    if value is None:
        return None if not needed or kind == "REAL" else "" if kind == "TEXT" else 0
    if kind == "REAL":
        return _real(value)
    if kind == "INTEGER":
        number = int(value) if isinstance(value, int) else int(_real(value) or 0)
        return max(-_LARGEST, min(_LARGEST, number))
    if isinstance(value, bytes):
        return value
    # As SQLite would turn a number into text, so that a checksum fits what is read.
    text = str(int(value)) if isinstance(value, int) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _real(value: Any) -> float | None:
    try:
        number = float(value) + 0.0  # minus zero is not kept
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def sealed_answer(row: Row) -> Row:
    """Return the row of an answer with its checksum."""
    try:
        return (*row, _of_plain_answer(row))
    except _NOT_PLAIN:
        return sealed_plain(row, failed=False)


def sealed_plain(row: Row, *, failed: bool) -> Row:
    """Return a row with its checksum, of values that SQLite can store."""
    columns = FAILURE_COLUMNS if failed else ANSWER_COLUMNS
    row = plain_row(row[: len(columns)], columns)
    return (*row, checksum(row) if failed else answer_checksum(row))


def answer_checksum(row: Row) -> int:
    """Return the checksum of an answer that SQLite gives back."""
    try:
        return _of_plain_answer(row)
    except _NOT_PLAIN:
        return checksum(row)


def checksum(row: Row) -> int:
    """Return the checksum of any values that SQLite gives back.

    >>> checksum((b"key", 0, 1.5, "text", None)) == checksum((b"key", 0, 1.5, "texT", None))
    False
    """
    found = 0
    for value in row:
        if isinstance(value, bytes):
            found = crc32(value, crc32(b"\0b", found))
        else:
            text = str(value).encode("utf-8", "surrogatepass")
            found = crc32(text, crc32(b"\0s" if isinstance(value, str) else b"\0n", found))
    return found


def _of_plain_answer(row: Row) -> int:
    """Return the checksum of text and numbers, in two passes; anything else is an error.

    SQLite keeps a NaN as NULL, and minus zero as zero.
    """
    key, ordinal, uses, at, text, reason, model, provider, request = row[:9]
    read, written, cached, thought, put, put_1h, cost, attempts, waited, raw = row[9:]
    cost = math.nan if cost is None or cost != cost else cost + 0.0
    waited = math.nan if waited is None or waited != waited else waited + 0.0
    numbers = _pack(
        ordinal, uses, at + 0.0, read, written, cached, thought, put, put_1h, cost, attempts, waited
    )
    texts = (
        text,
        "" if reason is None else reason,
        "" if model is None else model,
        "" if provider is None else provider,
        "" if request is None else request,
        "" if raw is None else raw,
    )
    return crc32("\0".join(texts).encode(), crc32(numbers, crc32(key)))


def pieces(
    connection: sqlite3.Connection, rows: Sequence[_T], columns: int, *, most: int = _SIZES[0]
) -> Iterator[Sequence[_T]]:
    """Yield rows in pieces of few sizes, whose statements are kept."""
    most = min(most, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns)
    start = 0
    while start < len(rows):
        left = min(most, len(rows) - start)
        size = next(each for each in _SIZES if each <= left)
        yield rows[start : start + size]
        start += size


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """Insert rows; return how many are new."""
    changed = 0
    columns = len(rows[0]) if rows else 1
    for piece in pieces(connection, rows, columns):
        values = list(chain.from_iterable(piece))
        changed += connection.execute(filled(statement, len(piece), columns), values).rowcount
    return changed


@cache
def filled(statement: str, rows: int, columns: int) -> str:
    """Return a statement with placeholders for so many rows of values."""
    return statement.format(", ".join([f"({', '.join('?' * columns)})"] * rows))
