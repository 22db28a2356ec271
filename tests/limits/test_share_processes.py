"""Several real processes with one key, each told its share, against one real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmflow.simulator import SimulatorSettings, serve_in_thread

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, json, sys, time
from llmflow import LLM

model, url, count, known, member = sys.argv[1:]

async def main():
    quota = None
    if known == "known":
        from llmflow import Quota
        quota = Quota(rpm=1200, burst_seconds=1)
    llm = LLM(model, base_url=url, api_key="sk-test", quota=quota)
    llm.prepare()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    await asyncio.gather(*(llm(f"{member}, {n}") for n in range(int(count))))
    share = llm.limiter.statistics().share
    print(json.dumps({"seconds": time.monotonic() - began, "share": share}), flush=True)

asyncio.run(main())
"""
RPM = 1200
LATENCY = 0.2


def run_members(
    url: str, members: int, *, each: int, model: str, known: bool
) -> list[dict[str, float]]:
    """Have processes ask together, and return what each of them says at its end."""
    environment = {**os.environ, "LLMFLOW_SHARE": f"1/{members}"}
    words = (model, url, str(each), "known" if known else "")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, f"member {member}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for member in range(members)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=90)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("model", ["openai/bench", "anthropic/bench"])
def test_processes_that_are_told_their_share_use_the_whole_without_rejections(
    members: int, known: bool, model: str
) -> None:
    each = 160 // members
    settings = SimulatorSettings(rpm=RPM, burst_seconds=1, latency=LATENCY, answer="echo")
    with serve_in_thread(settings) as simulator:
        ended = run_members(simulator.url, members, each=each, model=model, known=known)
        seen = simulator.stats()
    assert [report["share"] for report in ended] == [1 / members] * members
    assert seen.answered == 160
    # How exactly is tested in virtual time (test_share.py). A machine that does much else delays
    # some by more than the slack of a quarter of a second, and the end of all.
    assert seen.rejections <= 8
    ideal = (160 - RPM / 60) / (RPM / 60) + LATENCY
    assert max(report["seconds"] for report in ended) < 2.0 * ideal + 5.0
