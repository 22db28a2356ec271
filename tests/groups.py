"""The group of a test: `unit`, `http`, `process` or `slow`.

A test belongs to the most expensive thing that its code names, or that of its fixtures, its
parameters and the helpers in `tests/` that it calls: `process` if it starts a process, `http` if it
opens a socket or uses the simulator's models, which are served over HTTP, and `unit` otherwise. A
marker in its file may say a more expensive group, as it always does for `slow`. A `unit` test that
opens or starts something all the same fails.

Where all of a file's tests are marked (`pytestmark`), a run of the `unit` tests does not import it.

Beside its group, a test of whole programs is marked `one_python`, by its folder or file name,
unless its file is marked `every_python`: what such tests are made of is tested on every Python.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

_GROUPS = ("unit", "http", "process", "slow")
_PROCESS = {"subprocess", "multiprocessing", "serve_in_process", "fork"}
_HTTP = {"Simulator", "SimulatorThread", "serve_in_thread", "start_server", "create_server"} | {
    "aiohttp",
    "httpx",
    "socket",
}


_WHOLE_PROGRAMS = ("/tests/batch/", "/tests/cli/", "_over_http.py", "_in_runs.py")


def is_of_one_python(item: pytest.Item) -> bool:
    """Return whether one version of Python is enough for a test."""
    whole = any(part in item.path.as_posix() for part in _WHOLE_PROGRAMS)
    return whole and item.get_closest_marker("every_python") is None


_MARKED = re.compile(
    r"^pytestmark = (?:\[[^\]]*?)?pytest\.mark\.(?:http|process|slow)\b", re.MULTILINE
)


@cache
def files_with(group: str) -> Mapping[Path, int]:
    """Return the sizes of the test files that may hold a test of a group."""
    found = {}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        text = path.read_text("utf-8")
        if group != "unit" or not _MARKED.search(text):
            found[path] = len(text)
    return found


@cache
def share_of(worker: int, workers: int, group: str) -> frozenset[Path]:
    """Return the files that one of several workers collects and runs."""
    shares: list[list[Path]] = [[] for _ in range(workers)]
    sizes = [0] * workers
    known = files_with(group)
    for path in sorted(known, key=known.__getitem__, reverse=True):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(path)
        sizes[smallest] += known[path]
    return frozenset(shares[worker])


def group_of(item: pytest.Item) -> str:
    """Return the group that a collected test belongs to."""
    marked = [each for each in _GROUPS if item.get_closest_marker(each) is not None]
    if "slow" in marked:
        return "slow"
    return max([*marked, _group_by_names(item)], key=_GROUPS.index)


def _group_by_names(item: pytest.Item) -> str:
    if not isinstance(item, pytest.Function):
        return "unit"
    # pytest has no public way to an item's fixtures before it runs.
    definitions = item._fixtureinfo.name2fixturedefs.values()
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    used = [item.function, *(each.func for found in definitions for each in found), *parameters]
    names = set().union(*(_names(each) for each in used if isinstance(each, FunctionType)))
    if names & _PROCESS:
        return "process"
    return "http" if names & _HTTP else "unit"


@cache
def _names(function: FunctionType) -> frozenset[str]:
    """Return the names in a function's code, and in that of the helpers it calls."""
    names: set[str] = set()
    seen = {function}
    waiting = [function]
    while waiting:
        now = waiting.pop()
        here = set(_names_of_code(now.__code__))
        values = {name: now.__globals__[name] for name in here & now.__globals__.keys()}
        packages = {_package(value) for value in values.values()}
        names |= here | packages
        new = {each for value in values.values() for each in _helpers(value, here)} - seen
        seen |= new
        waiting += new
    return frozenset(names)


def _names_of_code(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from _names_of_constants(code.co_consts)


def _names_of_constants(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, CodeType):
            yield from _names_of_code(constant)
        elif isinstance(constant, tuple):  # the arguments of a call with many of them
            yield from _names_of_constants(constant)
        elif isinstance(constant, str) and constant.startswith("sim/"):
            yield "serve_in_thread"


def _package(value: Any) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return str(name).partition(".")[0]


def _helpers(value: Any, names: set[str]) -> Iterator[FunctionType]:
    """Yield the functions of `tests/` that code may call by a value and these names."""
    if isinstance(value, ModuleType):
        for name in names:
            yield from _functions(getattr(value, name, None))
    else:
        yield from _functions(value)


def _functions(value: Any) -> Iterator[FunctionType]:
    if not str(getattr(value, "__module__", "")).startswith("tests."):
        return
    if isinstance(value, type):
        for method in list(vars(value).values()):
            inner = getattr(method, "__func__", None) or getattr(method, "fget", None) or method
            if isinstance(inner, FunctionType):
                yield inner
    else:
        inner = inspect.unwrap(value)
        if isinstance(inner, FunctionType):
            yield inner


# Whether there is IPv6; when litellm is imported.
_ASKED_BY_URLLIB3 = (("::1", 0),)
_EVENTS = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn"}


class Opened:
    """What the running `unit` test has opened that such tests do not."""

    def __init__(self) -> None:
        self.events: list[str] | None = None
        sys.addaudithook(self._hear)  # it cannot be taken away again

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is None or event not in _EVENTS or arguments[1:] == _ASKED_BY_URLLIB3:
            return
        self.events.append(f"{event}{arguments[1:]}")

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Fail the test that opens a socket or starts a process in the block."""
        self.events = []
        try:
            yield
        finally:
            events, self.events = self.events, None
        if events:
            pytest.fail(f"not a unit test, mark it http or process: {events[0]}")
