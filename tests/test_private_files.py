"""Folders and files that llmflow makes for itself: nobody else may look into them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmflow.cache import Cache
from llmflow.journal import Journal
from llmflow.limits import learned_limits
from llmflow.private_files import make_private_folder
from llmflow.simulator import BatchSettings, Simulator, SimulatorSettings
from llmflow.types import Response, Usage
from tests.simulator.batch_provider import Anthropic, Dialect, OpenAI, Provider

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


@pytest.fixture(params=[0o000, 0o022], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def check(folder: Path) -> None:
    found = modes(folder)
    assert found
    for name, mode in found.items():
        wanted = 0o700 if (folder / name).is_dir() else 0o600
        assert mode & ~wanted == 0, (name, oct(mode))
        assert (folder / name).is_file() or mode == 0o700, (name, oct(mode))


def test_all_folders_that_are_missing_are_private(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b" / "c")
    assert modes(tmp_path) == {"a": 0o700, "a/b": 0o700, "a/b/c": 0o700}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)
    make_private_folder(tmp_path / "a" / "b")
    make_private_folder(tmp_path / "a")
    assert modes(tmp_path) == {"a": 0o755, "a/b": 0o700}


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_private_folder(path)


def test_a_journal_and_the_folders_above_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / ".llmflow" / "runs" / "mine")
    journal.begin({})
    check(tmp_path)
    journal.close()
    check(tmp_path)


async def test_a_cache_and_the_folders_above_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "caches" / "llmflow" / "cache.db")
    await cache.store(
        b"sixteen bytes...",
        Response(text="a", usage=Usage(), finish_reason="stop", model="m", provider="p"),
    )
    cache.close()
    check(tmp_path)


def test_what_limiters_learned(tmp_path: Path) -> None:
    limit = learned_limits.LearnedLimit(
        dimension="requests", limit=60.0, burst_seconds=1.0, estimated=False
    )
    entry = learned_limits.Remembered(
        provider="p", model="m", limits={"requests": limit}, times={"requests": 1.0}
    )
    learned_limits.save(tmp_path / "caches" / "llmflow" / "limits.json", {"k": entry}, now=2.0)
    check(tmp_path)


@pytest.mark.parametrize("dialect", [OpenAI, Anthropic])
def test_the_state_of_a_simulator(tmp_path: Path, dialect: Dialect) -> None:
    """All of it, while a job runs and after its end."""
    with Provider(state=tmp_path / "state" / "of" / "it", seconds=10.0) as sim:
        ident = dialect(sim).create(10)
        for second in range(0, 200, 5):
            sim.until(float(second))
            check(tmp_path)
        assert len(dialect(sim).results(ident)) == 10
    names = set(modes(tmp_path))
    assert {"state/of/it/billed.sqlite", "state/of/it/counts.json"} <= names
    assert any(name.startswith("state/of/it/data/") for name in names)


async def test_a_large_body_on_its_way_to_a_simulator(tmp_path: Path) -> None:
    state = BatchSettings(state=str(tmp_path / "state"))
    async with Simulator(SimulatorSettings(batch=state)) as sim, asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        data = tmp_path / "state" / "data"
        while not list(data.glob("arriving-*")):  # noqa: ASYNC110 - it comes through a socket
            await asyncio.sleep(0.001)
        check(tmp_path)
        writer.close()
        while list(data.glob("arriving-*")):  # noqa: ASYNC110 - it comes through a socket
            await asyncio.sleep(0.001)
