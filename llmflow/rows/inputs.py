"""Settings and notices of reading a source, shared by all formats."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, cast

from llmflow.errors import InputError
from llmflow.format import counted
from llmflow.lenient_json import Repairs
from llmflow.surrogates import well_formed

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = Iterator[Row]
Open: TypeAlias = Callable[[], IO[bytes]]
"""How a source's bytes are opened; each call starts at the beginning."""

BOM: Final = b"\xef\xbb\xbf"
MARK: Final = "\udcff"
"""What stands in decoded text for bytes that are none: no valid text holds it."""
_SHOWN: Final = 1_000
_BUFFER: Final = 1 << 17
_HANDLER: Final = "llmflow-mark"
# For names in the domain system, not for files; the last one is for no text at all.
_FOR_NAMES: Final = ("idna", "punycode", "undefined")


class BadRow(dict[str, Any]):
    """A row that cannot be read, and the error.

    It stands in the place of the row, so that the rows after it keep their numbers.

    >>> BadRow({"line": 3}, InputError("line 3: not valid JSON")).error
    InputError('line 3: not valid JSON')
    """

    __slots__ = ("error",)

    def __init__(self, known: Row, error: InputError) -> None:
        super().__init__(known)
        self.error = error


@dataclass(slots=True, kw_only=True)
class Repaired:
    """Counts of JSON values that were repaired while reading."""

    texts: int = 0
    numbers: int = 0
    first_line: int = 0

    def note(self, repairs: Repairs, line: int) -> None:
        """Add what was replaced in one line."""
        if any(repairs):
            self.texts += repairs.texts
            self.numbers += repairs.numbers
            self.first_line = self.first_line or line

    def words(self) -> str | None:
        """Return all in one line; None if nothing was replaced."""
        parts = []
        if self.numbers:
            parts.append(f"{counted(self.numbers, 'value')} NaN or Infinity as null")
        if self.texts:
            halves = counted(self.texts, "half", "halves")
            parts.append(f"{halves} of surrogate pairs as U+FFFD")
        if not parts:
            return None
        return f"read {' and '.join(parts)}, first in line {self.first_line:,}"


@dataclass(slots=True, kw_only=True)
class Reading:
    """Settings for reading one source.

    Args:
        name: what to call it in messages.
        text_field: the field that a bare text goes to.
        keeps_bad: whether a row that cannot be read is a `BadRow` instead of an error.
        encoding: of its text; None is UTF-8.
        delimiter: between the columns of a CSV; None is found out.
        repaired: what was not read as it stands, since the source was last begun.
        remarks: what was found out about it and may surprise, each in one line.
    """

    name: str
    text_field: str = "text"
    keeps_bad: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    repaired: Repaired = field(default_factory=Repaired)
    remarks: list[str] = field(default_factory=list)

    def bad(self, message: str, *, error_from: BaseException | None = None, **known: Any) -> BadRow:
        """Return the row that stands for one that cannot be read.

        Raises:
            InputError: such rows are not kept.
        """
        error = InputError(message)
        if not self.keeps_bad:
            raise error from error_from
        raw = known.get("raw")
        if isinstance(raw, bytes):
            raw = raw.decode("utf-8", "replace")
        if isinstance(raw, str):
            raw = well_formed(raw.rstrip("\r\n"))
            known["raw"] = raw if len(raw) <= _SHOWN else raw[: _SHOWN - 1] + "…"
        return BadRow(known, error)

    @property
    def not_text(self) -> str:
        """The message about bytes that are invalid in the source's encoding."""
        if self.encoding is not None:
            return f"the text is not {self.encoding}: is that its encoding?"
        return (
            "the text is not UTF-8. Is it Latin-1 or UTF-16? Save it as UTF-8, or name its "
            "encoding (--encoding)."
        )


def opener(path: Path) -> Open:
    """Return an opener of a file's bytes, which unpacks ``.gz``."""
    if path.suffix.lower() == ".gz":
        return lambda: cast("IO[bytes]", gzip.open(path, "rb"))
    return lambda: path.open("rb", buffering=_BUFFER)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn file and gzip failures into one line for users."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except PermissionError:
        raise InputError(f"{name} cannot be read: permission denied") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name} is not a whole gzip file: {error}") from None
    except UnicodeError as error:
        # Of a file as a whole, such as UTF-16 without its mark: no line of it can be read.
        raise InputError(f"{name} cannot be decoded: {error}; is that its encoding?") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None


class _Marks:
    """How many bytes were no text so far, in all sources of the process."""

    count = 0


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _Marks.count += 1
    return MARK, error.end


codecs.register_error(_HANDLER, _mark)


def marks_so_far() -> int:
    """Return how many bytes were no text so far, of whatever source.

    While it does not change, text that `decoded` gives needs no look for `MARK`.
    """
    return _Marks.count


@contextmanager
def decoded(raw: IO[bytes], encoding: str | None, *, newline: str) -> Iterator[io.TextIOWrapper]:
    """Decode bytes while reading; invalid ones become `MARK`. Stays open."""
    text = io.TextIOWrapper(raw, encoding=encoding or "utf-8-sig", errors=_HANDLER, newline=newline)
    try:
        yield text
    finally:
        with suppress(ValueError):  # it was closed
            text.detach()


def checked_encoding(name: str | None) -> str | None:
    """Return an encoding's name; None for UTF-8.

    Raises:
        InputError: Python knows no such encoding of text.
    """
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    # Codecs such as base64 are not for text; Python tells them apart in this way alone.
    is_text = found is not None and getattr(found, "_is_text_encoding", True)
    if found is None or not is_text or found.name in _FOR_NAMES:
        raise InputError(
            f"unknown encoding {name!r}: known are utf-8, latin-1, cp1252, utf-16, gb18030, "
            "shift_jis and what else Python has"
        )
    return None if found.name in ("utf-8", "utf-8-sig") else found.name


def checked_delimiter(text: str | None) -> str | None:
    r"""Return a delimiter as one character.

    >>> checked_delimiter("tab"), checked_delimiter(";")
    ('\t', ';')

    Raises:
        InputError: it cannot separate columns.
    """
    if text is None:
        return None
    found = {"tab": "\t", r"\t": "\t"}.get(text, text)
    if len(found) != 1 or found in '"\r\n\0 ' or (ord(found) >= 0xD800 and ord(found) < 0xE000):
        raise InputError(f"delimiter must be one character, such as ';', or tab; got {text!r}")
    return found
