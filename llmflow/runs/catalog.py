"""Catalog of this machine's runs; the folders of runs and cache."""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.config import load_config
from llmflow.errors import ConfigurationError, InputError, JournalError, redact

if TYPE_CHECKING:
    from llmflow.cache import Cache
    from llmflow.journal import RunSummary

VARIABLE: Final = "LLMFLOW_JOURNAL_DIR"
CACHE_VARIABLE: Final = "LLMFLOW_CACHE_DIR"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_name(name: str) -> str:
    """Return a run's name, which is also its folder's.

    Raises:
        ConfigurationError: it cannot be a folder's name everywhere.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith("."):
        raise ConfigurationError(
            "a run's name has at most 100 letters, digits, '.', '_' and '-', and begins with a "
            f"letter or digit; got {redact(str(name))!r}"
        )
    return name


def runs_folder() -> Path:
    """Return the folder that holds a folder for each run.

    ``LLMFLOW_JOURNAL_DIR`` names it, else ``dir`` in the file's ``[journal]``; else it is in
    the platform's folder for what programs keep (``~/.local/state/llmflow/runs`` on Linux).

    Raises:
        ConfigurationError: there is no home folder to keep it in, or the file is wrong.
    """
    named = os.environ.get(VARIABLE)
    try:
        if named:
            return Path(named).expanduser().absolute()
        return load_config().journal.dir or _default_folder()
    except RuntimeError:
        raise ConfigurationError(
            f"there is no home folder to keep runs in: name a folder in {VARIABLE}"
        ) from None


def cache_folder() -> Path:
    """Return the folder of the cache's file, ``cache.db``.

    ``LLMFLOW_CACHE_DIR`` names it. Else it is beside the runs, ``~/.local/state/llmflow`` on
    Linux; where the folder of runs was chosen, what is beside it is not llmflow's, and the
    cache is in that folder's ``.cache``.

    Raises:
        ConfigurationError: there is no home folder to keep it in, or the file is wrong.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        try:
            return Path(named).expanduser().absolute()
        except RuntimeError:  # no such user, or no home
            raise ConfigurationError(f"there is no home folder for {CACHE_VARIABLE}") from None
    runs = runs_folder()
    chosen = os.environ.get(VARIABLE) or load_config().journal.dir is not None
    return runs / ".cache" if chosen else runs.parent


def machine_cache() -> Cache:
    """Return this machine's cache, or one that stores nothing."""
    from llmflow.cache import Cache, cache_at

    whole = load_config().journal.store != "answers"
    try:
        folder = cache_folder()
    except ConfigurationError as error:
        return Cache(None, reason=str(error))
    return cache_at(folder, whole=whole)


def list_runs() -> list[RunSummary]:
    """Return what is known of each run, the one used last first."""
    from llmflow.journal import read_summary

    folder = runs_folder()
    try:
        names = [entry.name for entry in folder.iterdir() if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{folder} cannot be read: {error.strerror or error}") from error
    found = [summary for name in names if (summary := read_summary(folder / name)) is not None]
    return sorted(found, key=lambda each: each.last_used_at, reverse=True)


def find_run(name: str) -> RunSummary:
    """Return one run by its name, or by a unique prefix.

    Raises:
        InputError: there is no such run, or there are several.
    """
    runs = list_runs()
    exact = [each for each in runs if each.name == name]
    fitting = exact or [each for each in runs if each.name.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.name for each in fitting[:5])
        raise InputError(f"several runs begin with {redact(name)!r}: {names}")
    near = difflib.get_close_matches(name, [each.name for each in runs], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`llmflow runs` lists them"
    raise InputError(f"there is no run {redact(name)!r} in {runs_folder()}; {hint}")


def remove_run(name: str) -> None:
    """Remove a run and its answers.

    Args:
        name: the run's name, in full.

    Raises:
        InputError: there is no such run.
        JournalBusyError: a process works on it.
        JournalError: its folder cannot be removed.
    """
    from llmflow.journal.lock import NAME, Lock

    summary = find_run(name)
    if summary.name != name:
        raise InputError(
            f"{redact(name)!r} is only the beginning of {summary.name!r}: give the whole name"
        )
    try:
        lock = Lock(summary.folder)  # nobody may enter it meanwhile
        try:
            for path in summary.folder.iterdir():
                if path.name != NAME and not path.is_dir():
                    path.unlink()
        finally:
            lock.release()
        import shutil

        shutil.rmtree(summary.folder)
    except OSError as error:
        raise JournalError(
            f"{summary.folder} cannot be removed: {error.strerror or error}"
        ) from error


def _default_folder() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "llmflow" / "runs"
