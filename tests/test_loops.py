"""Loops of our own are uvloop's; a program's own loop is left as it is."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from llmflow import LLM, loops
from llmflow.background import BackgroundLoop
from llmflow.simulator import SimulatorSettings, serve_in_thread

uvloop = pytest.importorskip("uvloop")


async def kind() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_what_runs_a_coroutine_takes_uvloop() -> None:
    assert loops.run(kind()) is uvloop.Loop


def test_synchronous_calls_run_on_uvloop() -> None:
    background = BackgroundLoop()
    try:
        assert background.run(kind, instead="") is uvloop.Loop
    finally:
        background.close()


def test_a_ctrl_c_before_the_loop_begins_leaves_no_coroutine_unawaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loops, "new_event_loop", interrupted)
    coroutine = kind()
    with pytest.raises(KeyboardInterrupt):
        loops.run(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_without_uvloop_the_loop_is_asyncios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert issubclass(loops.run(kind()), asyncio.BaseEventLoop)


async def test_a_programs_own_loop_is_left_as_it_is() -> None:
    before = asyncio.get_event_loop_policy()
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo")) as sim:
        llm = LLM("openai/x", base_url=sim.url, api_key="k")
        assert await llm("Summarize: A.") == "Summarize: A."
        answer = await asyncio.to_thread(llm.run, "Summarize: B.")
        assert answer == "Summarize: B."
    assert asyncio.get_event_loop_policy() is before
    assert issubclass(await kind(), asyncio.BaseEventLoop)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_a_synchronous_call_raises_ends_no_other(error: type[BaseException]) -> None:
    """asyncio lets the first two through its loop, with all that runs there."""
    background, results = BackgroundLoop(), []

    async def slow() -> str:
        await asyncio.sleep(0.2)
        return "slow"

    async def fail() -> Any:
        raise error

    try:
        other = threading.Thread(target=lambda: results.append(background.run(slow, instead="")))
        other.start()
        time.sleep(0.05)
        with pytest.raises(error):
            background.run(fail, instead="")
        other.join(5.0)
        assert results == ["slow"]
        assert background.run(slow, instead="") == "slow"
    finally:
        background.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    program = """
import os
from llmflow import LLM
from llmflow.simulator import SimulatorSettings, serve_in_process
with serve_in_process(SimulatorSettings(latency=0.0, answer="echo")) as sim:
    llm = LLM("openai/x", base_url=sim.url, api_key="k")
    assert llm.run("Summarize: A.") == "Summarize: A."
    child = os.fork()
    if not child:
        os._exit(0 if llm.run("Summarize: B.") == "Summarize: B." else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert llm.run("Summarize: C.") == "Summarize: C."
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, timeout=60, text=True
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_ends_a_synchronous_call() -> None:
    program = """
from llmflow import LLM
from llmflow.simulator import SimulatorSettings, serve_in_process
with serve_in_process(SimulatorSettings(latency=60.0)) as sim:
    llm = LLM("openai/x", base_url=sim.url, api_key="k")
    print("asking", flush=True)
    try:
        llm.run("Summarize: A.")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
    popen = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    assert popen.stdout.readline() == "asking\n"
    time.sleep(0.3)
    popen.send_signal(signal.SIGINT)
    said, _ = popen.communicate(timeout=20)
    assert said == "interrupted\n"
    assert popen.returncode == 0
