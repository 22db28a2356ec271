"""Checksums of rows, so that altered ones are not replayed.

A disk, a copy or a person can change what SQLite cannot know to be wrong. CRC-32 finds that;
it is no protection against somebody who writes a new checksum, too.

A row is checked as SQLite gives it back. Nearly all rows are text and numbers that come back
as they were bound; others are made `plain` before they are bound, and after that they do, too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import nan
from typing import Any, Final
from zlib import crc32

from llmflow.journal.rows import ANSWER_COLUMNS, FAILURE_COLUMNS, Row, plain_row

CHECKSUM: Final = "checksum"
_pack = struct.Struct("<qqdqqqqqqdqd").pack


def sealed_answer(row: Row) -> Row:
    """Return the row of an answer with its checksum."""
    try:
        return (*row, _of_plain_answer(*row))
    except (TypeError, ValueError, struct.error, OverflowError):
        row = plain_row(row, ANSWER_COLUMNS)
        return (*row, answer_checksum(row[0], row[1:]))


def sealed_failure(row: Row) -> Row:
    """Return the row of a failure with its checksum."""
    row = plain_row(row, FAILURE_COLUMNS)
    return (*row, checksum(row))


def sealed_plain(row: Row, *, failed: bool) -> Row:
    """Return a row that SQLite refused with storable values and checksum."""
    columns = FAILURE_COLUMNS if failed else ANSWER_COLUMNS
    row = plain_row(row[:-1], columns)
    return (*row, checksum(row) if failed else answer_checksum(row[0], row[1:]))


def answer_checksum(fingerprint: bytes, told: Sequence[Any]) -> int:
    """Return the checksum of an answer that SQLite gives back.

    Args:
        fingerprint: what was asked.
        told: all of the other columns.
    """
    try:
        return _of_plain_answer(fingerprint, *told)
    except (TypeError, ValueError, struct.error, OverflowError):
        return checksum((fingerprint, *told))


def checksum(row: Sequence[Any]) -> int:
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


def _of_plain_answer(
    fingerprint: bytes,
    ordinal: int,
    uses: int,
    at: float,
    text: str,
    finish_reason: str | None,
    model: str | None,
    provider: str | None,
    request_id: str | None,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int,
    reasoning_tokens: int,
    cache_write_tokens: int,
    cache_write_1h_tokens: int,
    cost: float | None,
    attempts: int,
    waited: float | None,
    raw: str | None,
) -> int:
    """Return the checksum of text and numbers, in two passes; anything else is an error.

    SQLite keeps a NaN as NULL, and minus zero as zero.
    """
    numbers = _pack(
        ordinal,
        uses,
        at + 0.0,
        input_tokens,
        output_tokens,
        cached_tokens,
        reasoning_tokens,
        cache_write_tokens,
        cache_write_1h_tokens,
        nan if cost is None or cost != cost else cost + 0.0,
        attempts,
        nan if waited is None or waited != waited else waited + 0.0,
    )
    texts = "\0".join(
        (
            text,
            "" if finish_reason is None else finish_reason,
            "" if model is None else model,
            "" if provider is None else provider,
            "" if request_id is None else request_id,
            "" if raw is None else raw,
        )
    )
    return crc32(texts.encode(), crc32(numbers, crc32(fingerprint)))
