"""Many processes share one cache; one may be killed at any moment, or fork."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, os, resource, sys
from pathlib import Path
from llmflow import Response, Usage
from llmflow.cache import Cache

def answer(number, size=10):
    return Response(text=f"{number} " + "x" * size, usage=Usage(), finish_reason="stop",
                    model="m", provider="p")

async def work(cache, first, last, size=10, at_once=50):
    asked = 0
    numbers = iter(range(first, last))
    async def one():
        nonlocal asked
        for number in numbers:
            key = number.to_bytes(16, "big")
            found = await cache.find(key)
            if found is None:
                asked += 1
                await cache.store(key, answer(number, size))
                os.write(1, f"kept {number}.\\n".encode())
            elif found.text.split()[0] != str(number):
                raise SystemExit(f"{number} was answered with {found.text}")
    await asyncio.gather(*(one() for _ in range(at_once)))
    return asked
"""


def start(body: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    code = PROGRAM + f"\ncache = Cache(Path({str(path)!r}))\n" + body
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


ASK = """
asked = asyncio.run(work(cache, int(sys.argv[1]), int(sys.argv[2])))
print("asked", asked)
"""


def asked(process: subprocess.Popen[str]) -> int:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return int(out.rpartition("asked ")[2])


def check(path: Path) -> set[int]:
    """Check that the file is whole, and return what is kept in it."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT fingerprint, text FROM answers").fetchall()
    connection.close()
    assert all(int.from_bytes(key) == int(text.split()[0]) for key, text in rows)
    return {int.from_bytes(key) for key, _ in rows}


def test_one_after_the_other_they_ask_each_question_once(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    assert asked(start(ASK, path, 0, 500)) == 500
    assert asked(start(ASK, path, 250, 750)) == 250
    assert check(path) == set(range(750))


def test_at_once_nothing_is_lost_and_nothing_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache.db"
    both = [start(ASK, path, first, first + 2_000) for first in (0, 1_000, 500)]
    assert sum(map(asked, both)) >= 3_000
    assert check(path) == set(range(3_000))
    assert asked(start(ASK, path, 0, 3_000)) == 0


@pytest.mark.parametrize("seed", range(6))
def test_killed_in_the_middle_what_was_kept_is_kept(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "cache.db"
    kept: set[int] = set()
    for attempt in range(2):
        process = start(ASK, path, attempt * 50_000, (attempt + 1) * 50_000)
        other = start(ASK, path, 200_000 + attempt * 300, 200_300 + attempt * 300)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("kept")
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
        kept |= {int(each) for each in re.findall(r"kept (\d+)\.\n", out)}
        assert asked(other) == 300
    assert kept <= check(path)


def test_a_fork_has_a_cache_of_its_own(tmp_path: Path) -> None:
    body = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
asyncio.run(work(cache, 0, 100))
children = []
for number in range(1, 4):
    child = os.fork()
    if not child:
        asked = asyncio.run(work(cache, 0, 100 + 100 * number))
        os._exit(0 if asked <= 100 * number else 1)  # what the parent had kept is found
    children.append(child)
asyncio.run(work(cache, 0, 600))
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print("asked", asyncio.run(work(cache, 0, 600)))
"""
    assert asked(start(body, tmp_path / "cache.db")) == 0
    assert check(tmp_path / "cache.db") == set(range(600))


def test_on_a_full_disk_calls_go_on(tmp_path: Path) -> None:
    body = """
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
print("asked", asyncio.run(work(cache, 0, 1_000, 2_000)))
"""
    process = start(body, tmp_path / "cache.db")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.count("cannot be used") == 1
    assert "asked 1000" in out
    check(tmp_path / "cache.db")


def test_memory_does_not_grow_with_what_is_kept(tmp_path: Path) -> None:
    body = """
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
asyncio.run(work(cache, 0, 5_000, 3_000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
asyncio.run(work(cache, 5_000, 20_000, 3_000))
asyncio.run(work(cache, 0, 20_000, 3_000))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 15_000, grown  # kilobytes; the answers are 60 megabytes
"""
    process = start(body, tmp_path / "cache.db")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
