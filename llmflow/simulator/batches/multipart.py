"""Reading a multipart form from a file, without holding it: where each part lies."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MOST_PARTS = 50
_MOST_HEADERS = 8192
_WINDOW = 1_048_576


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
    with path.open("rb") as file:
        place = _find(file, mark, 0)
        while place >= 0:
            file.seek(place + len(mark))
            head = file.read(_MOST_HEADERS)
            if head[:2] == b"--":
                return parts
            length = head.find(b"\r\n\r\n")
            start = place + len(mark) + length
            end = _find(file, b"\r\n" + mark, start)
            if length < 0 or end < 0 or len(parts) >= _MOST_PARTS:
                raise FormError("The form is malformed.")
            # An empty content may share its line end with the headers.
            content = min(start + 4, end + 2)
            name, filename = _names(head[2:length])
            parts[name] = Part(filename, content, max(0, end - content))
            place = end + 2
    raise FormError("The form has no end.")


def _find(file: BinaryIO, text: bytes, start: int) -> int:
    """Return where a text begins at or after `start`, or -1; a window at a time."""
    file.seek(start)
    place, kept = start, b""
    while read := file.read(_WINDOW):
        window = kept + read
        found = window.find(text)
        if found >= 0:
            return place - len(kept) + found
        place += len(read)
        kept = window[-(len(text) - 1) :]
    return -1


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
