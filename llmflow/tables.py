"""Tables for terminals and notebooks: columns, and lines with explanations."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from llmflow.format import printable

WIDTH: Final = 80
HEIGHT: Final = 23  # of a screen's 24 lines one is the prompt's
_MARGIN: Final = "  "
_WIDEST_AMOUNT: Final = 24
_NARROWEST: Final = 40
_CELL: Final = "text-align: left; vertical-align: top"


def columns(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> Iterator[str]:
    """Yield rows of cells as lines with aligned columns.

    >>> list(columns([("run", "rows"), ("a", "12")], right=[1]))
    ['run  rows', 'a      12']

    The columns in `right` are aligned to the right.
    """
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            _padded(cell, width, right=number in right)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield _MARGIN.join(cells).rstrip()


class Line(NamedTuple):
    """One line: a name, an amount, and perhaps an explanation."""

    what: str
    amount: str
    how: str = ""


def text_table(
    title: str, lines: Iterable[Line], *, width: int = WIDTH, height: int | None = HEIGHT
) -> str:
    """Return a title and lines as a table that fits a screen.

    An explanation that does not fit beside its amount goes under it, and is cut if the table has
    more lines than `height`.

    >>> print(text_table("plan: openai/m", [Line("rows", "3"), Line("cost", "free", "why")]))
    plan: openai/m
      rows  3
      cost  free  why
    """
    width = max(width, _NARROWEST)
    blocks = list(_blocks([Line(*map(printable, line)) for line in lines], width))
    if height is not None:
        _shorten(blocks, width, height - 1)
    top = next(_wrapped(printable(title), width), "")
    return "\n".join([top, *(line for block in blocks for line in block)])


def html_table(title: str, lines: Iterable[Line]) -> str:
    """Return a title and lines as an escaped table for a notebook."""
    rows = (
        f'<tr><th scope="row" style="{_CELL}">{what}</th>'
        f'<td style="{_CELL}">{amount}</td><td style="{_CELL}">{how}</td></tr>'
        for what, amount, how in ((html.escape(printable(cell)) for cell in line) for line in lines)
    )
    caption = f'<caption style="text-align: left">{html.escape(printable(title))}</caption>'
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"


def _blocks(lines: Sequence[Line], width: int) -> Iterator[list[str]]:
    """Yield each line as one or more lines of a screen."""
    first = max((_width(line.what) for line in lines), default=0)
    amounts = (_width(line.amount) for line in lines)
    second = max((each for each in amounts if each <= _WIDEST_AMOUNT), default=0)
    for line in lines:
        start = f"{_MARGIN}{_padded(line.what, first)}{_MARGIN}"
        amount = _padded(line.amount, second) if line.how else line.amount
        whole = f"{start}{amount}{_MARGIN}{line.how}".rstrip()
        if _width(whole) <= width:
            yield [whole]
            continue
        indent = " " * _width(start)
        parts = _wrapped(line.amount, width - len(indent))
        yield [
            start + next(parts, ""),
            *(indent + part for part in parts),
            *(indent + _MARGIN + part for part in _wrapped(line.how, width - len(indent) - 2)),
        ]


def _shorten(blocks: list[list[str]], width: int, height: int) -> None:
    """Cut the longest blocks until all of them fit."""
    while sum(map(len, blocks)) > height:
        longest = max(blocks, key=len)
        if len(longest) == 1:
            return  # nothing is left to leave out but whole amounts
        longest.pop()
        if len(longest) > 1:
            longest[-1] = f"{_start(longest[-1].rstrip(' …'), width - 2)} …"


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield a text wrapped to a width, between words if possible."""
    line = ""
    for word in text.split():
        if line and _width(line) + 1 + _width(word) > width:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
        while _width(line) > width:
            start = _start(line, width)
            yield start
            line = line[len(start) :]
    if line:
        yield line


def _start(text: str, width: int) -> str:
    kept = text[:width]
    while _width(kept) > width:
        kept = kept[:-1]
    return kept


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # letters of East Asia take two columns

    return cell_len(text)
