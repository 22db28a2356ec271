"""Reading a multipart form from a file, without holding it: where each part lies."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import NamedTuple

_MOST_PARTS = 50
_MOST_HEADERS = 8192


class FormError(ValueError):
    """It is no form."""


class Part(NamedTuple):
    """A part of a form: its file name, if it is a file, and where its content lies."""

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
    if not path.stat().st_size:
        raise FormError("The form is empty.")
    parts: dict[str, Part] = {}
    mark = b"--" + boundary
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        place = text.find(mark)
        while place >= 0 and text[place + len(mark) : place + len(mark) + 2] != b"--":
            head = place + len(mark) + 2
            start = text.find(b"\r\n\r\n", head, head + _MOST_HEADERS)
            end = text.find(b"\r\n" + mark, start)
            if start < 0 or end < 0 or len(parts) >= _MOST_PARTS:
                raise FormError("The form is malformed.")
            # The part's content may be empty: its mark then begins with its headers' last line end.
            content = min(start + 4, end + 2)
            name, filename = _names(text[head:start])
            parts[name] = Part(filename, content, max(0, end - content))
            place = end + 2
        if place < 0:
            raise FormError("The form has no end.")
    return parts


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
