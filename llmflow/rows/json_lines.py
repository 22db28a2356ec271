"""Reads rows from JSON lines, text lines, or either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import IO, Any, Final, TypeAlias

import orjson

from llmflow.errors import InputError
from llmflow.lenient_json import has_large_number, loads_counted
from llmflow.rows.inputs import BOM, MARK, Open, Reading, Row, Rows, decoded, reading

Line: TypeAlias = bytes | str
"""Bytes of UTF-8, or text where the source has another encoding."""

_WIDE_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
# Integers above 64 bits come out of orjson as floats.
_RISKY: Final = frozenset({float, dict, list})
_LARGEST: Final = 2.0**63
_SHOWN: Final = 60


def json_rows(lines: Iterable[Line], how: Reading) -> Rows:
    """Yield one row per JSON line: objects, or texts.

    NaN and Infinity are read as null, and half of a surrogate pair as U+FFFD.
    """
    loads, risky, least, most = orjson.loads, _RISKY, -_LARGEST, _LARGEST
    for number, line in enumerate(lines, 1):
        try:
            row = loads(line)
        except orjson.JSONDecodeError as error:
            if number == 1:  # JSON never begins with a mark: it is looked for only here
                line = _without_mark(line, how)  # noqa: PLW2901
            if not line.strip():
                continue
            row = _read_leniently(line, number, how, error)
            if type(row) is dict:
                yield row
                continue
        if type(row) is dict:
            for value in row.values():
                kind = type(value)
                if kind in risky and (kind is not float or not least < value < most):
                    row = _with_all_digits(row, line)
                    break
            yield row
        elif type(row) is str:
            yield {how.text_field: row}
        else:
            yield row if isinstance(row, dict) else _no_object(row, number, line, how)


def text_rows(lines: Iterable[Line], how: Reading) -> Rows:
    """Yield one row per line of text; blank lines are skipped."""
    for number, line in enumerate(_without_bom(lines, how), 1):
        if line.isspace():
            continue
        text = _decoded(line)
        if text is None:
            message = f"{how.name}, line {number}: {how.not_text}"
            yield how.bad(message, line=number, raw=line)
        else:
            yield {how.text_field: text.rstrip("\r\n")}


FORMATS: Final[dict[str, Callable[[Iterable[Line], Reading], Rows]]] = {
    "jsonl": json_rows,
    "txt": text_rows,
}


def line_rows(
    open_bytes: Open, how: Reading, rows: Callable[[Iterable[Line], Reading], Rows]
) -> Rows:
    """Yield the rows of a line file, closed at its end."""
    with reading(how.name), open_bytes() as raw:
        if how.encoding is None:  # one generator less to go through
            yield from rows(raw, how)
        else:
            yield from _of_stream(raw, how, rows)


def stream_rows(stream: IO[bytes], how: Reading, kind: str | None = None) -> Rows:
    """Yield rows of a stream whose first line tells the format.

    A line that begins with ``{`` promises JSON. A prompt is never made from what
    only might be JSON: a broken line is an error, not a text to pay for.
    """
    with reading(how.name):
        rows = FORMATS[kind] if kind is not None else _guessed
        yield from _of_stream(stream, how, rows)


def _of_stream(
    raw: IO[bytes], how: Reading, rows: Callable[[Iterable[Line], Reading], Rows]
) -> Rows:
    if how.encoding is None:
        yield from rows(raw, how)
        return
    with decoded(raw, how.encoding, newline="\n") as text:
        yield from rows(text, how)


def _guessed(lines: Iterable[Line], how: Reading) -> Rows:
    begun: list[Line] = []
    first, rest = "", iter(lines)
    for line in rest:
        begun.append(line)
        # The bytes are looked at only for what is ASCII.
        text = line if isinstance(line, str) else line.removeprefix(BOM).decode("latin-1")
        first = text.lstrip("\ufeff").strip()
        if first:
            break
    rows = json_rows if first.startswith("{") else text_rows
    yield from rows(chain(begun, rest), how)


def _without_bom(lines: Iterable[Line], how: Reading) -> Iterable[Line]:
    """Return the lines without the mark that some editors put first."""
    rest = iter(lines)
    first = next(rest, None)
    return () if first is None else chain((_without_mark(first, how),), rest)


def _without_mark(line: Line, how: Reading) -> Line:
    if isinstance(line, str):
        return line.removeprefix("\ufeff")
    if line.startswith(_WIDE_BOMS):
        # Of such a file no line can be read.
        raise InputError(f"{how.name}, line 1: {how.not_text}")
    return line.removeprefix(BOM)


def _decoded(line: Line) -> str | None:
    """Return a line as text; None where it is none."""
    if isinstance(line, str):
        return None if MARK in line else line
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _read_leniently(line: Line, number: int, how: Reading, error: orjson.JSONDecodeError) -> Any:
    """Read a line that is no strict JSON, or return the `BadRow` that stands for it."""
    text = _decoded(line)
    if text is None and isinstance(line, bytes):
        text = _with_surrogates(line)
    if text is None:
        return how.bad(f"{how.name}, line {number}: {how.not_text}", line=number, raw=line)
    try:
        value, repairs = loads_counted(text, exact_integers=True)
    except ValueError:
        return _broken(text, number, how, error)
    how.repaired.note(repairs, number)
    return value


def _with_surrogates(line: bytes) -> str | None:
    """Decode UTF-8 that holds halves of surrogate pairs, as some programs write it."""
    try:
        text = line.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _broken(text: str, number: int, how: Reading, error: orjson.JSONDecodeError) -> Row:
    where = f"{how.name}, line {number}"
    text = text.strip()
    if text in ("{", "[", "[{"):
        message = (
            f"{where}: one JSON value over several lines; each line must be a whole "
            "object. `jq -c '.[]?' FILE > FILE.jsonl` rewrites an array."
        )
        if number == 1:  # no line of it is a row, though some may look like one
            raise InputError(message)
    else:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        message = f"{where}: not valid JSON ({error.msg} at column {error.colno}): {shown!r}"
    return how.bad(message, line=number, raw=text)


def _no_object(row: Any, number: int, line: Line, how: Reading) -> Row:
    kind = "an array" if type(row) is list else "null" if row is None else "a bare value"
    return how.bad(
        f"{how.name}, line {number}: {kind}; each line must be a JSON object, "
        'such as {"text": "..."}, or a JSON string',
        line=number,
        raw=line,
    )


def _with_all_digits(row: Row, line: Line) -> Row:
    """Return a row whose integers have all their digits, however many."""
    if not has_large_number(row):
        return row
    value: Row = loads_counted(line, exact_integers=True)[0]
    return value
