"""Tables of a plan's lines, for terminals and notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from llmflow.format import printable

WIDTH = 80
HEIGHT = 23  # of a screen's 24 lines one is the prompt's
_MARGIN = 2
_WIDEST_AMOUNT = 24
_NARROWEST = 40
_CELL = "text-align: left; vertical-align: top"


class Line(NamedTuple):
    """One line of a plan.

    Args:
        what: what it is about.
        amount: how much that is.
        how: how that is known, and what follows; may be empty.
    """

    what: str
    amount: str
    how: str = ""


def text_table(
    title: str, lines: Iterable[Line], *, width: int = WIDTH, height: int | None = HEIGHT
) -> str:
    """Return a title and lines as a table that fits a screen.

    What a line has to say beside its amount goes under it where it does not fit; of that,
    the ends are left out where there are too many lines.

    >>> print(text_table("plan: openai/m", [Line("rows", "3"), Line("cost", "free", "why")]))
    plan: openai/m
      rows  3
      cost  free  why

    Args:
        title: the first line.
        lines: the others.
        width: columns of the screen.
        height: lines that it has room for; None for any number of them.
    """
    cells = [_printable(line) for line in lines]
    width = max(width, _NARROWEST)
    blocks = list(_blocks(cells, width))
    if height is not None:
        _shorten(blocks, width, height - 1)
    top = next(_wrapped(printable(title), width), "")
    return "\n".join([top, *(line for block in blocks for line in block)])


def html_table(title: str, lines: Iterable[Line]) -> str:
    """Return a title and lines as an escaped table for a notebook."""
    rows = [
        f'<tr><th scope="row" style="{_CELL}">{what}</th>'
        f'<td style="{_CELL}">{amount}</td><td style="{_CELL}">{how}</td></tr>'
        for what, amount, how in (map(html.escape, _printable(line)) for line in lines)
    ]
    caption = f'<caption style="text-align: left">{html.escape(printable(title))}</caption>'
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"


def _printable(line: Line) -> Line:
    return Line(*map(printable, line))


def _blocks(lines: Sequence[Line], width: int) -> Iterator[list[str]]:
    """Yield each line as one or more lines of a screen."""
    first = max((_width(line.what) for line in lines), default=0)
    amounts = (_width(line.amount) for line in lines)
    second = max((each for each in amounts if each <= _WIDEST_AMOUNT), default=0)
    indent = " " * (_MARGIN + first + _MARGIN)
    for line in lines:
        amount = _padded(line.amount, second) if line.how else line.amount
        head = f"{' ' * _MARGIN}{_padded(line.what, first)}{' ' * _MARGIN}{amount}"
        whole = f"{head}{' ' * _MARGIN}{line.how}".rstrip()
        if _width(whole) <= width:
            yield [whole]
            continue
        start = f"{' ' * _MARGIN}{_padded(line.what, first)}{' ' * _MARGIN}"
        room = width - len(indent)
        yield [
            *_joined(start, indent, _wrapped(line.amount, room)),
            *(f"{indent}  {each}" for each in _wrapped(line.how, room - 2)),
        ]


def _joined(start: str, indent: str, parts: Iterable[str]) -> Iterator[str]:
    for number, part in enumerate(parts):
        yield f"{indent if number else start}{part}"


def _shorten(blocks: list[list[str]], width: int, height: int) -> None:
    """Cut the longest blocks until all of them fit."""
    while sum(map(len, blocks)) > height:
        longest = max(blocks, key=len)
        if len(longest) == 1:
            return  # nothing is left to leave out but whole amounts
        longest.pop()
        if len(longest) > 1:
            kept = longest[-1].rstrip(" …")
            while _width(kept) > width - 2:
                kept = kept[:-1]
            longest[-1] = f"{kept} …"


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield a text wrapped to a width, between words if possible."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while _width(line) > width:
            kept = _kept(line, width)
            yield kept
            line = line[len(kept) :]
    if line:
        yield line


def _kept(text: str, width: int) -> str:
    kept = text[:width]
    while _width(kept) > width:
        kept = kept[:-1]
    return kept


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # letters of East Asia take two columns

    return cell_len(text)
