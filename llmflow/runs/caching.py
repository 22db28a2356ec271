"""Place of the answer cache that all runs on this machine share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.config import load_config
from llmflow.errors import ConfigurationError
from llmflow.runs.catalog import VARIABLE, runs_folder

if TYPE_CHECKING:
    from llmflow.cache import Cache

CACHE_VARIABLE: Final = "LLMFLOW_CACHE_DIR"
_FOLDER: Final = ".cache"


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
    return runs / _FOLDER if chosen else runs.parent


def machine_cache() -> Cache:
    """Return this machine's cache, or one that stores nothing."""
    from llmflow.cache import Cache, cache_at

    whole = load_config().journal.store != "answers"
    try:
        folder = cache_folder()
    except ConfigurationError as error:
        return Cache(None, reason=str(error))
    return cache_at(folder, whole=whole)
