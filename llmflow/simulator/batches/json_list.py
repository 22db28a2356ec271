"""Reading a long list in a JSON body from a file, an element at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_WINDOW = 1_048_576
_MOST_ELEMENT = 33_554_432
# All up to the next bracket outside a text; a quotation mark begins a text whose end is not here.
_NEXT = re.compile(
    rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.)*+"[^"{}\[\]]*+)*+(["{}\[\]])',
    re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]*+")


class ListError(ValueError):
    """It is no object with such a list."""


class _Window:
    """A part of a file, from which things are taken in their order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = b""
        self._place = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes after white space, fewer at the end."""
        while True:
            found = _SPACE.match(self._data, self._place)
            assert found is not None
            self._place = found.end()
            if len(self._data) - self._place >= size or not self._more():
                return self._data[self._place : self._place + size]

    def take(self, mark: bytes) -> None:
        """Pass over what must come next."""
        found = self.peek(len(mark))
        if found != mark:
            shown = found.decode("utf-8", "replace")
            raise ListError(f"expected {mark.decode()}, found {shown!r}" if shown else "it ends")
        self._place += len(mark)

    def element(self) -> bytes:
        """Take the object that begins here."""
        if self.peek(1) != b"{":
            raise ListError("an element is no object")
        depth = done = 0
        while True:
            found = _NEXT.match(self._data, self._place + done)
            if found is None or found[1] == b'"':
                if len(self._data) - self._place > _MOST_ELEMENT:
                    raise ListError(f"an element is larger than {_MOST_ELEMENT} bytes")
                if not self._more():
                    raise ListError("it ends")
                continue
            depth += 1 if found[1] in b"{[" else -1
            done = found.end() - self._place
            if not depth:
                element = self._data[self._place : self._place + done]
                self._place += done
                return element

    def _more(self) -> bool:
        kept = self._data[self._place :]
        # What is long is read in ever larger parts: it is looked through again after each.
        read = self._file.read(max(_WINDOW, len(kept)))
        self._data, self._place = kept + read, 0
        return bool(read)


def elements(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the elements, objects all, of the list that is an object's only member.

    Only the brackets are looked at: whether an element is JSON is for the caller to see. The
    memory is that of the largest element, and bounded.

    >>> import io
    >>> list(elements(io.BytesIO(b'{"rows": [{"a": "]}"}, {}]}'), "rows"))
    [b'{"a": "]}"}', b'{}']

    Args:
        file: the body, from here on.
        name: of the member.

    Raises:
        ListError: it is something else, or an element is larger than 32 MiB.

    """
    window = _Window(file)
    window.take(b"{")
    for mark in (f'"{name}"'.encode(), b":", b"["):
        window.take(mark)
    if window.peek(1) != b"]":
        yield window.element()
    while window.peek(1) == b",":
        window.take(b",")
        yield window.element()
    window.take(b"]")
    window.take(b"}")
    if window.peek(1):
        raise ListError("something follows its end")
