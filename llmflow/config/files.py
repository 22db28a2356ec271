"""Finds and reads configuration files, once per process and file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from llmflow.config.problems import FILE_NAME, Place, lines_of, report
from llmflow.config.settings import Config, JournalSettings, origin
from llmflow.errors import ConfigurationError, redact

VARIABLE: Final = "LLMFLOW_CONFIG"
_MOST_BYTES: Final = 2**20
_DEEPEST: Final = 64
_LONG_KEY: Final = re.compile(
    r"""^[ \t[]*+(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""", re.MULTILINE
)
"""The beginning of a line's key that has more parts than any."""
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


_loaded: dict[Path, Config] = {}
_chosen: list[Config] = []
_lock = threading.Lock()


def load_config(source: Config | str | os.PathLike[str] | None = None) -> Config:
    """Return a configuration, read from its file at the first call.

    >>> load_config(Config()).source is None
    True

    Args:
        source: a file or a `Config`. By default what `use_config` has set, else the file that
            the variable ``LLMFLOW_CONFIG`` names, else the nearest ``llmflow.toml`` in the
            working directory or above it, else nothing.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong; all that is
            wrong is named, with its line.
    """
    if isinstance(source, Config):
        return source
    if source is not None:
        if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
            raise ConfigurationError(
                f"config must be a file's name or a Config; got {type(source).__name__}"
            )
        return _load(as_path(source))
    if _chosen:
        return _chosen[-1]
    named = named_config()
    if named is not None:
        return _load(named, named_by=VARIABLE)
    found = find_config()
    return Config() if found is None else _load(found)


class use_config:  # noqa: N801 - it is called like a function
    """Set this process's configuration, for good or for a ``with`` block.

    >>> with use_config(Config()):  # no file, whatever lies about: for tests
    ...     llm = LLM("sim/demo")  # doctest: +SKIP

    What an `LLM` was told at its making does not change afterwards.

    Args:
        source: a file, a `Config`, or None for the usual search.

    Raises:
        ConfigurationError: as `load_config`.
    """

    def __init__(self, source: Config | str | os.PathLike[str] | None) -> None:
        config = None if source is None else load_config(source)
        with _lock:
            self._before = list(_chosen)
            _chosen[:] = [] if config is None else [config]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _chosen[:] = self._before


def forget_configs() -> None:
    """Forget what was read, so that a changed file is read again."""
    with _lock:
        _loaded.clear()


def _load(path: Path, *, named_by: str | None = None) -> Config:
    with _lock:
        config = _loaded.get(path)
        if config is None:
            config = _loaded[path] = _read(path, named_by)
        return config


def _read(path: Path, named_by: str | None) -> Config:
    data, text = read_config(path, named_by=named_by)
    if not data:
        return Config(source=path)
    from llmflow.config.schema import validate  # pydantic: not where there is nothing to check

    lines = lines_of(text)
    content, problems = validate(data)
    if problems:
        raise ConfigurationError(report(display_name(path), problems, lines))
    return Config(
        source=path,
        providers=content.get("providers", {}),
        journal=_journal(path, content.get("journal", {}), lines),
        batch=content.get("batch", {}),
        lines=lines,
    )


def _journal(path: Path, table: Mapping[str, Any], lines: Mapping[Place, int]) -> JournalSettings:
    folder = table.get("dir")
    return JournalSettings(
        dir=None if folder is None else path.parent / Path(folder).expanduser(),
        store=table.get("store"),
        durability=table.get("durability"),
        origins={name: origin(("journal", name), path, lines) for name in table},
    )


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
    import tomllib  # late: most programs that import llmflow have no file to read

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
