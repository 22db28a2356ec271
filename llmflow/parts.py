"""Parts of messages, tools, wanted outputs, and outputs other than text.

Each is a frozen value of a `kind`, by which key, journal and cache write it down.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self, TypeAlias

from llmflow.errors import InputError, redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text among the parts of a message."""

    kind: ClassVar[str] = "text"

    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Media:
    """A file by its bytes, its address, or the name that the provider gave it."""

    kind: ClassVar[str] = ""

    data: bytes | None = None
    url: str | None = None
    file_id: str | None = None
    media_type: str | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.data, self.url, self.file_id) if each is not None]
        name = type(self).__name__
        if len(given) != 1:
            raise InputError(f"{name} needs one of data, url and file_id; got {len(given)} of them")
        if self.data is not None and type(self.data) is not bytes:
            raise InputError(
                f"data of {name} must be bytes, such as Path(name).read_bytes(); "
                f"got {type(self.data).__name__}"
            )
        if self.url is not None and not self.url.startswith(("https://", "http://", "gs://")):
            raise InputError(
                f"url of {name} must begin with https://; give a file as "
                f"{name}(data=Path(name).read_bytes(), media_type=...)"
            )

    def __repr__(self) -> str:
        shown = []
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bytes):
                shown.append(f"{each.name}=<{len(value):,} bytes>")
            elif each.name == "url" and value is not None:
                address, query, _ = value.partition("?")  # which may hold a signature
                shown.append(f"url={redact(address) + query!r}")
            elif value is not None:
                shown.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Image(_Media):
    """An image in a message, or one that a model has made.

    >>> Image(data=bytes(2048), media_type="image/png")
    Image(data=<2,048 bytes>, media_type='image/png')

    Args:
        data: its bytes; or
        url: its address; or
        file_id: its name at the provider.
        media_type: such as ``image/png``; None if unknown.
        detail: how closely the model looks at it, in the provider's word, such as ``low``.
    """

    kind: ClassVar[str] = "image"

    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Document(_Media):
    """A document in a message, such as a PDF.

    Args:
        data: its bytes; or
        url: its address; or
        file_id: its name at the provider.
        media_type: such as ``application/pdf``; None if unknown.
        name: its file name, for the model.
    """

    kind: ClassVar[str] = "document"

    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may ask the caller to run.

    Args:
        name: its name.
        description: what it does, for the model.
        parameters: the JSON schema of its arguments.
    """

    kind: ClassVar[str] = "tool"

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """The choice of a tool: ``auto``, ``none``, ``required``, or its name."""

    kind: ClassVar[str] = "tool_choice"

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool that the model wants run; a part of later requests.

    Args:
        id: its name, which the tool's result repeats.
        name: the tool's name.
        arguments: the tool's arguments.
    """

    kind: ClassVar[str] = "tool_call"

    id: str
    name: str
    arguments: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The result of a tool, as a part of the next request.

    Args:
        id: that of the `ToolCall`.
        content: the result, a text or parts.
        is_error: whether the tool failed.
    """

    kind: ClassVar[str] = "tool_result"

    id: str
    content: str | tuple[Text | Image | Document, ...]
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSchema:
    """A wanted output: JSON that fits a schema.

    Args:
        schema: the JSON schema.
        name: its name, for the model.
        strict: whether the provider must keep to the schema.
    """

    kind: ClassVar[str] = "output_schema"

    schema: Mapping[str, Any] = field(hash=False)
    name: str = "answer"
    strict: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An answer as JSON data, given beside the text."""

    kind: ClassVar[str] = "parsed"

    value: Any = field(default=None, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Vector:
    """An embedding: 32-bit floats, of 4 bytes each.

    >>> Vector.of([0.5, -1.0]).values
    (0.5, -1.0)

    Args:
        data: the floats, little-endian; ``numpy.frombuffer(data, "<f4")`` reads them.
    """

    kind: ClassVar[str] = "vector"

    data: bytes

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Make one from numbers."""
        numbers = list(values)
        return cls(data=struct.pack(f"<{len(numbers)}f", *numbers))

    @property
    def values(self) -> tuple[float, ...]:
        """Its numbers."""
        return struct.unpack(f"<{len(self)}f", self.data)

    def __len__(self) -> int:
        return len(self.data) // 4

    def __repr__(self) -> str:
        return f"Vector({len(self):,} dimensions)"


Part: TypeAlias = Text | Image | Document | ToolCall | ToolResult
"""What the content of a message may hold, in a tuple."""

Wanted: TypeAlias = OutputSchema | Tool | ToolChoice
"""What a request may ask for beside a text."""

Output: TypeAlias = Parsed | ToolCall | Vector | Image | Document
"""What an answer may hold beside its text."""

KINDS: Final[Mapping[str, type]] = {
    each.kind: each
    for each in (
        *(Text, Image, Document, ToolCall, ToolResult),
        *(OutputSchema, Tool, ToolChoice, Parsed, Vector),
    )
}
"""All values by their kind."""
VALUES: Final = frozenset(KINDS.values())


def texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content and of its parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else getattr(part, "text", part)
            if isinstance(text, str):
                yield text


def as_base64(data: bytes) -> str:
    """Return bytes as a text that `value_of` reads."""
    return b64encode(data).decode()


def plain(value: Any, stored: Callable[[bytes], Any] = as_base64) -> dict[str, Any]:
    """Return a value as JSON data: its kind and given fields.

    Args:
        value: one of the values above.
        stored: returns what stands for bytes.
    """
    found = {"kind": value.kind}
    for each in fields(value):
        held = getattr(value, each.name)
        if held is not None:
            found[each.name] = stored(held) if isinstance(held, bytes) else held
    return found


def value_of(data: Mapping[str, Any]) -> Any:
    """Return the output that `plain` wrote.

    Raises:
        LookupError: it is of a kind that this version does not know.
    """
    given = dict(data)
    if "data" in given:
        given["data"] = b64decode(given["data"])
    return KINDS[given.pop("kind")](**given)
