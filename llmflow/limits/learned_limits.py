"""Stores learned limits in a file for the next run.

One small JSON file that is safe to delete. It holds no key and no secret: a quota
domain is there as a digest, beside the names of provider and model. Nothing here
raises: a file that cannot be read or written costs a slow start, not a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from llmflow.private_files import make_private_folder
from llmflow.rate_limits import RATE_LIMITS
from llmflow.transport.failures import is_this_machine

logger = logging.getLogger("llmflow")

VARIABLE: Final = "LLMFLOW_STATE_DIR"
FILE_NAME: Final = "limits.json"
LIFETIME: Final = 7 * 86_400.0
"""Seconds after which what was learned is not believed any more."""
_VERSION: Final = 1
_MOST_ENTRIES: Final = 256
_MOST_BYTES: Final = 2**20
_LONGEST_NAME: Final = 200
_CLOCK_NOISE: Final = 300.0
_LOCK_TRIES, _LOCK_SECONDS = 25, 0.02
# Name, address, key and model; what has fewer parts is at no address that a later run finds.
_FEWEST_PARTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """One limit, as far as it was learned while it was used.

    It was found by trying where it is `estimated`; else a reply has named it.
    """

    dimension: str
    limit: float
    burst_seconds: float
    estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Learned limits of one quota domain, and when each was learned.

    `model` may be the name of a class of models with one quota.
    """

    provider: str
    model: str
    limits: Mapping[str, LearnedLimit] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model string, ``provider/model``."""
        return f"{self.provider}/{self.model}"

    @property
    def newest(self) -> float:
        """The time at which something was learned last."""
        return max(self.times.values(), default=0.0)

    def updated(self, learned: Iterable[LearnedLimit], *, rejected: bool, now: float) -> Remembered:
        """Return what is known after a run that began with this.

        What did not change keeps its time, so that it is not believed for ever. An estimate begins
        below the one of before: where nothing was refused, that is no news.
        """
        limits, times = dict(self.limits), dict(self.times)
        for each in learned:
            name, old = each.dimension, limits.get(each.dimension)
            if old is not None and old.estimated == each.estimated:
                if each.estimated and each.limit <= old.limit and not rejected:
                    continue
                if each.limit == old.limit:
                    limits[name] = each
                    continue
            limits[name], times[name] = each, now
        return Remembered(provider=self.provider, model=self.model, limits=limits, times=times)

    def merged(self, other: Remembered) -> Remembered:
        """Merge both; on conflict the newer wins, and ties go here."""
        limits, times = dict(self.limits), dict(self.times)
        for name, moment in other.times.items():
            if moment > times.get(name, -math.inf):
                limits[name], times[name] = other.limits[name], moment
        return Remembered(provider=self.provider, model=self.model, limits=limits, times=times)


def digest(domain: Hashable) -> str | None:
    """Return a domain's key in the file; None if not stored.

    Remembered is what has a name, an address, a key and a model, as strings: not an object of
    a test, and not the built-in simulator. Nor what listens on this machine: the next server
    on a port may be another one.
    """
    if not isinstance(domain, tuple) or len(domain) < _FEWEST_PARTS:
        return None
    for part in domain:
        if not isinstance(part, str | None) or (part and _is_here(part)):
            return None
    if not domain[0] or not domain[-1]:
        return None
    return hashlib.sha256(json.dumps(domain).encode()).hexdigest()[:32]


def state_file() -> Path | None:
    """Return the file's path, or None where nothing is to be remembered.

    ``LLMFLOW_STATE_DIR`` names its folder, or with "" or "off" switches it off; else it is in
    the platform's folder for caches.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if named.strip().lower() in ("", "off"):
            return None
        with contextlib.suppress(RuntimeError):  # no such user
            return Path(named).expanduser().absolute() / FILE_NAME
        return None
    try:
        return _caches() / "llmflow" / FILE_NAME
    except RuntimeError:  # nobody knows a home
        return None


def load(path: Path | None, *, now: float | None = None) -> dict[str, Remembered]:
    """Return recent entries of the file, by domain digest."""
    if path is None:
        return {}
    try:
        content = _read(path)
        if content is None:
            return {}
        data = orjson.loads(content)
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            raise ValueError("it is of another version, or another program's")
        moment = time.time() if now is None else now
        found = ((key, _entry(value, moment)) for key, value in data["domains"].items())
        return {key: entry for key, entry in found if entry is not None}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.debug("what was learned before is not used: %s: %s", path, error)
        return {}


def save(path: Path | None, entries: Mapping[str, Remembered], *, now: float | None = None) -> None:
    """Write the entries into the file, merged with other processes'."""
    if path is None or not entries:
        return
    try:
        make_private_folder(path.parent)
        with _alone(path):
            before = load(path, now=now)
            after = before | {
                key: entry.merged(before[key]) if key in before else entry
                for key, entry in entries.items()
            }
            if after != before:
                _write(path, after)
    except (OSError, ValueError) as error:
        logger.debug("what was learned is not kept: %s: %s", path, error)


def forget(path: Path | None, keys: Iterable[str] | None = None) -> int:
    """Take domains out of the file, and return how many were there.

    Without `keys`, the digests of the domains, the whole file goes, whatever it holds.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None or not os.path.lexists(path):
        return 0
    with _alone(path):
        entries = load(path)
        if keys is None:
            path.unlink()
            return len(entries)
        gone = [key for key in keys if entries.pop(key, None) is not None]
        if gone:
            _write(path, entries)
    return len(gone)


def _caches() -> Path:
    if sys.platform == "win32":
        named = os.environ.get("LOCALAPPDATA")
        return Path(named) if named else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a path that is not absolute is to be ignored.
    return Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"


def _is_here(part: str) -> bool:
    """Return whether a part of a domain is the address of a server on this machine."""
    if not part.startswith(("http://", "https://")):
        return False
    try:
        return is_this_machine(urlsplit(part).hostname or "")
    except ValueError:
        return False


def _read(path: Path) -> bytes | None:
    # A pipe in the file's place must not be waited for.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    try:
        kind = os.fstat(descriptor)
        if not stat.S_ISREG(kind.st_mode) or kind.st_size > _MOST_BYTES:
            raise ValueError("it is not a regular file, or too large")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


def _entry(value: Any, now: float) -> Remembered | None:
    """Return what is usable of one domain; None where nothing is."""
    limits, times = {}, {}
    for name, each in value["limits"].items():
        numbers = [each["limit"], each["burst_seconds"], each["learned_at"]]
        usable = all(type(n) in (int, float) and 0 < n < math.inf for n in numbers)
        if name not in RATE_LIMITS or not usable or type(each["estimated"]) is not bool:
            continue
        limit, burst, moment = map(float, numbers)
        if not -_CLOCK_NOISE <= now - moment <= LIFETIME:
            continue
        limits[name] = LearnedLimit(
            dimension=name, limit=limit, burst_seconds=burst, estimated=each["estimated"]
        )
        times[name] = moment
    if not limits:
        return None
    provider, model = str(value["provider"]), str(value["model"])
    return Remembered(provider=provider, model=model, limits=limits, times=times)


def _write(path: Path, entries: Mapping[str, Remembered]) -> None:
    """Put a new file in the place of the old one, whole or not at all."""
    import tempfile  # late, with the compressors that it loads

    newest = sorted(entries, key=lambda key: entries[key].newest, reverse=True)[:_MOST_ENTRIES]
    data = {"version": _VERSION, "domains": {key: _plain(entries[key]) for key in newest}}
    content = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    # mkstemp's files are readable by nobody else.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _plain(entry: Remembered) -> dict[str, Any]:
    return {
        # What the environment has that is no UTF-8 cannot stand in JSON.
        name: text[:_LONGEST_NAME].encode("utf-8", "replace").decode()
        for name, text in (("provider", entry.provider), ("model", entry.model))
    } | {
        "limits": {
            name: {
                "limit": limit.limit,
                "burst_seconds": limit.burst_seconds,
                "estimated": limit.estimated,
                "learned_at": entry.times[name],
            }
            for name, limit in entry.limits.items()
        },
    }


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have the file for oneself, for as long as it takes to read and replace it.

    Where that cannot be had, another process may overwrite what this one adds: so be it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_SECONDS)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(descriptor)
