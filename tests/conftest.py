"""Settings for every test: warnings are errors, groups are assigned, state is the test's own."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmflow.testing import VirtualLoop
from tests.event_loops import VirtualSocketLoop
from tests.examples import try_few
from tests.groups import Opened, files_with, group_of, is_of_one_python, share_of

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "unit" and not config.getoption("hypothesis_profile", None):
        try_few()
    if threading.current_thread() is threading.main_thread():
        # A shell's `&` has it ignored, here and in all processes that tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Have more workers than cores: tests often wait, most of them for servers and processes."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = os.cpu_count() or 1
    return 2 * cores if config.option.markexpr == "unit" else cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """With `--dist each`, deal the files out to the workers before they are collected."""
    config = node.config
    if config.option.dist == "each" and config.args_source == config.ArgsSource.TESTPATHS:
        node.workerinput["deal"] = config.option.markexpr


_session = pytest.StashKey[pytest.Session]()
_collected = pytest.StashKey[dict[Any, int]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_session] = session
    session.config.stash[_collected] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    node.config.stash[_collected][node] = len(ids)


def pytest_report_teststatus(config: pytest.Config) -> None:
    """Have the progress count the tests of all workers, not only those of the last one."""
    if config.getoption("dist", "no") == "each":
        config.stash[_session].testscollected = sum(config.stash[_collected].values())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, before it is imported, a file whose tests would all be deselected."""
    if not collection_path.name.startswith("test_"):
        return None
    group = config.option.markexpr
    found = files_with(group)
    worker = getattr(config, "workerinput", {})
    if "deal" in worker:
        found = share_of(int(worker["workerid"][2:]), worker["workercount"], group)
    return collection_path not in found or None


@pytest.hookimpl(tryfirst=True)  # before pytest applies -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(group_of(item))
        if is_of_one_python(item):
            item.add_marker("one_python")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if virtual := item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualSocketLoop if virtual.kwargs.get("sockets") else VirtualLoop}
    if item.get_closest_marker("every_loop") and uvloop is not None:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"real": asyncio.new_event_loop}


opened = Opened()


@pytest.fixture(autouse=True)
def _opens_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold a test to its group."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    with opened.nothing():
        yield


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no llmflow.toml above the tests, nor the developer's own, have a say."""
    monkeypatch.setenv("LLMFLOW_CONFIG", os.devnull)
    monkeypatch.delenv("LLMFLOW_SHARE", raising=False)


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test begin with what another run has learned, nor leave anything of its own."""
    monkeypatch.setenv("LLMFLOW_STATE_DIR", "off")


@pytest.fixture(autouse=True)
def own_runs(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let every test have a folder of runs of its own, made only if it keeps any."""
    folder = tmp_path_factory.getbasetemp() / f"runs-{secrets.token_hex(6)}"
    monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(folder))


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test make spans because another one has imported OpenTelemetry's SDK."""
    monkeypatch.setenv("LLMFLOW_OTEL", "off")
