"""Loads the configuration once per process and file, on first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from llmflow.config.files import (
    VARIABLE,
    as_path,
    display_name,
    find_config,
    named_config,
    read_config,
)
from llmflow.config.problems import Place
from llmflow.config.settings import Config, JournalSettings, origin
from llmflow.errors import ConfigurationError

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
    from llmflow.config.problems import lines_of, report
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
