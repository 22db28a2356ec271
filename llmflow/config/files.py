"""Finds and reads the configuration file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from llmflow.errors import ConfigurationError, redact

FILE_NAME: Final = "llmflow.toml"
VARIABLE: Final = "LLMFLOW_CONFIG"
_MOST_BYTES: Final = 2**20
_DEEPEST: Final = 64
_LONG_KEY: Final = re.compile(
    r"""^[ \t[]*+(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""", re.MULTILINE
)
"""The beginning of a line's key that has more parts than any."""
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def find_config(start: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the nearest ``llmflow.toml`` in a folder or above it, or None.

    Args:
        start: the folder; by default the working directory.

    Raises:
        ConfigurationError: another user has put the file where everybody can write.
    """
    try:
        folder = Path.cwd() if start is None else Path(start).absolute()
    except FileNotFoundError:  # the working directory was deleted
        return None
    for each in (folder, *folder.parents):
        path = each / FILE_NAME
        try:
            there = path.is_file()
        except OSError:  # a folder on the way may not be looked into
            continue
        if there:
            _check_owner(path)
            return path
    return None


def named_config() -> Path | None:
    """Return the file that the variable ``LLMFLOW_CONFIG`` names, or None."""
    name = os.environ.get(VARIABLE)
    return as_path(name) if name else None


def as_path(name: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file's name; expands ``~``."""
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:  # no such user, or no home
        return Path(name).absolute()


def display_name(path: Path) -> str:
    """Return a file's name for messages: relative below the working directory."""
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return redact(str(path))


def read_config(path: Path, *, named_by: str | None = None) -> tuple[dict[str, Any], str]:
    """Read a file, and return its content as dict and text.

    Args:
        path: the file.
        named_by: who named it, such as ``LLMFLOW_CONFIG``, for the message if it is not there.

    Raises:
        ConfigurationError: it cannot be read, is not UTF-8 or is not TOML.
    """
    name = display_name(path)
    text = _decoded(_bytes(path, named_by), name)
    try:
        # A key of a hundred thousand parts takes minutes to read.
        if _LONG_KEY.search(text):
            raise RecursionError
        content = tomllib.loads(text)
        _check_depth(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(_explained(str(error), text, name)) from None
    except RecursionError:
        raise ConfigurationError(f"{name}: nested too deeply") from None
    except ValueError:  # Python's bound on the digits of a number
        raise ConfigurationError(f"{name}: a number in it has too many digits") from None
    return content, text


def _check_depth(content: dict[str, Any]) -> None:
    """Raise a RecursionError where tables and lists are nested as nobody nests them."""
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise RecursionError


def _check_owner(path: Path) -> None:
    """Refuse a file that somebody else has left in a folder such as /tmp.

    It could send the caller's keys to a server of its author.
    """
    if not hasattr(os, "geteuid"):
        return
    try:
        owner, folder = path.stat().st_uid, path.parent.stat().st_mode
    except OSError:
        return  # reading it will say what is wrong
    if owner not in (os.geteuid(), 0) and folder & stat.S_IWOTH:
        raise ConfigurationError(
            f"{display_name(path)} belongs to another user, in a folder where everybody can "
            f"write: name it with --config or {VARIABLE} if you trust it"
        )


def _bytes(path: Path, named_by: str | None) -> bytes:
    name, by = display_name(path), f" ({named_by})" if named_by else ""
    try:
        if path.is_dir():
            raise ConfigurationError(f"{name}{by} is a folder, not a configuration file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{name}{by}: no such configuration file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or redact(str(error))
        raise ConfigurationError(f"{name}{by} cannot be read: {reason}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigurationError(f"{name}{by} is larger than a mebibyte: no configuration file")
    return content


def _decoded(content: bytes, name: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError(f"{name} is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}, line {line}: not UTF-8; save it as UTF-8") from None


def _explained(message: str, text: str, name: str) -> str:
    """Return what is wrong with the TOML, with the place first."""
    found = _PLACE.search(message)
    what = redact(_PLACE.sub("", message))
    what = what[:1].lower() + what[1:]
    if found is None or found[1] is None:
        return f"{name}, at its end: {what}"
    line, column = int(found[1]), int(found[2])
    if text.split("\n")[line - 1].lstrip().startswith("["):
        what += '; a name with a dot or * stands in quotes, such as [providers.openai.models."o*"]'
    return f"{name}, line {line}, column {column}: {what}"
