"""What a map costs: memory that does not grow, and a few microseconds an item."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CODE = """
import asyncio, resource, sys, time
from llmflow.mapping.async_map import Answers
from llmflow.mapping.sync_map import AnswerStream
from llmflow.mapping.spec import MapSpec
from llmflow.types import Response, Usage

count, how = int(sys.argv[1]), sys.argv[2]
usage = Usage()

class Session:
    async def ask(self, prompt):
        return Response(text="ok", usage=usage, finish_reason="stop", model="m", provider="p")

session = Session()
ask = session.ask

def work():
    items = (f"text {number}" for number in range(count))
    return MapSpec(begin=lambda prompt: (session, prompt), items=items, prompt=None,
                concurrency=100, ordered=how == "ordered", on_error="collect")

async def taken():
    number = 0
    async for _ in Answers(work()):
        number += 1
    return number

async def bare():
    for number in range(count):
        await ask(f"text {number}")

start = time.process_time()
asyncio.run(bare())
calls = time.process_time() - start
start = time.process_time()
if how == "sync":
    number = sum(1 for _ in AnswerStream(work()))
else:
    number = asyncio.run(taken())
assert number == count
print((time.process_time() - start - calls) / count * 1e6)
try:  # what getrusage says may be the peak of the process that this one was forked from
    status = open("/proc/self/status").read()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measured(count: int, how: str) -> tuple[float, float]:
    """Return microseconds of overhead an item, and megabytes at most."""
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(count), how], capture_output=True, text=True, check=True
    )
    micros, megabytes = map(float, done.stdout.split())
    return micros, megabytes if sys.platform != "darwin" else megabytes / 1024


@pytest.mark.parametrize("how", ["stream", "ordered", "sync"])
def test_an_item_costs_a_few_microseconds_and_no_memory(how: str) -> None:
    few, many = measured(10_000, how), measured(200_000, how)
    assert many[0] < 15.0
    assert many[1] < few[1] + 10.0


@pytest.mark.slow
def test_a_million_items_fit_into_150_megabytes() -> None:
    micros, megabytes = measured(1_000_000, "stream")
    assert megabytes < 150.0
    assert micros < 15.0
