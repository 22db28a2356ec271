"""Readers of large request bodies: multipart forms and JSON lists in files."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import NamedTuple, TypeAlias

_MOST_PARTS = 50
_MOST_HEADERS = 8192
Data: TypeAlias = bytes | mmap.mmap


class FormError(ValueError):
    """It is no form."""


class Part(NamedTuple):
    """A part of a form: file name, start and size."""

    filename: str | None
    start: int
    size: int


def boundary_of(headers: Mapping[str, str]) -> bytes:
    """Return the boundary that a form's content type names.

    Raises:
        FormError: it is another type, or names none.

    """
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise FormError("The content type must be multipart/form-data with a boundary.")
    return boundary.encode("latin-1", "replace")


def read_form(path: Path, boundary: bytes) -> dict[str, Part]:
    """Return where the parts of a form lie, by their names.

    Raises:
        FormError: it is malformed.

    """
    parts: dict[str, Part] = {}
    mark = b"--" + boundary
    with mapped(path) as data:
        if not data:
            raise FormError("The form is empty.")
        place = data.find(mark)
        while place >= 0:
            head = data[place + len(mark) : place + len(mark) + _MOST_HEADERS]
            if head[:2] == b"--":
                return parts
            length = head.find(b"\r\n\r\n")
            start = place + len(mark) + length
            end = data.find(b"\r\n" + mark, start)
            if length < 0 or end < 0 or len(parts) >= _MOST_PARTS:
                raise FormError("The form is malformed.")
            # An empty content may share its line end with the headers.
            content = min(start + 4, end + 2)
            name, filename = _names(head[2:length])
            parts[name] = Part(filename, content, max(0, end - content))
            place = end + 2
    raise FormError("The form has no end.")


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[Data]:
    """Map a file, so that even a large one takes little memory."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _names(raw: bytes) -> tuple[str, str | None]:
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            message = Message()
            message["content-disposition"] = value.strip()
            name = message.get_param("name", header="content-disposition")
            filename = message.get_filename()
            if isinstance(name, str):
                return name, filename
    raise FormError("A part of the form has no name.")


_MOST_ELEMENT = 33_554_432
# All up to the next bracket outside a text; a quotation mark begins a text whose end is not here.
_NEXT = re.compile(
    rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}\[\]]*+)*+(["{}\[\]])',
    re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]*+")


class ListError(ValueError):
    """It is no object with such a list."""


def elements(data: Data, name: str) -> Iterator[bytes]:
    """Yield the objects of the list that is an object's only member.

    Only the brackets are looked at: whether an element is JSON is for the caller to see.

    >>> list(elements(b'{"rows": [{"a": "]}"}, {}]}', "rows"))
    [b'{"a": "]}"}', b'{}']

    Args:
        data: the body.
        name: of the member.

    Raises:
        ListError: it is something else, or an element is larger than 32 MiB.

    """
    place = _skip(data, _after(data, 0, b"{", f'"{name}"'.encode(), b":", b"["))
    more = data[place : place + 1] != b"]"
    while more:
        start = _skip(data, place)
        place = _end_of_element(data, start)
        yield data[start:place]
        place = _skip(data, place)
        more = data[place : place + 1] == b","
        place += more
    if _skip(data, _after(data, place, b"]", b"}")) < len(data):
        raise ListError("something follows its end")


def _skip(data: Data, place: int) -> int:
    """Return the place after white space."""
    found = _SPACE.match(data, place)
    assert found is not None
    return found.end()


def _after(data: Data, place: int, *marks: bytes) -> int:
    """Return the place after what must come next."""
    for mark in marks:
        place = _skip(data, place)
        found = data[place : place + len(mark)]
        if found != mark:
            shown = found.decode("utf-8", "replace")
            raise ListError(f"expected {mark.decode()}, found {shown!r}" if shown else "it ends")
        place += len(mark)
    return place


def _end_of_element(data: Data, start: int) -> int:
    if data[start : start + 1] != b"{":
        raise ListError("an element is no object")
    depth, place, most = 0, start, start + _MOST_ELEMENT
    while True:
        found = _NEXT.match(data, place, min(most, len(data)))
        if found is None or found[1] == b'"':
            large = f"an element is larger than {_MOST_ELEMENT} bytes"
            raise ListError(large if most < len(data) else "it ends")
        depth += 1 if found[1] in b"{[" else -1
        place = found.end()
        if not depth:
            return place
