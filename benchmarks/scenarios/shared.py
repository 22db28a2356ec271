"""`shared`: two processes spend one key's quota, and neither is told of the other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

from ideal import ideal_of_run

from llmflow import LLM, Quota
from llmflow.simulator import SimulatorSettings
from scenarios.measure import (
    KEY,
    Options,
    judged,
    prompts,
    reset,
    server,
    through_llmflow,
    timeline,
)
from scenarios.paced import RECORDED_PER_ITEM, plain
from scenarios.quotas import RPM, RPM_SETTINGS

MEMBERS = 2
LEAST_SHARE = 0.4
_RUN = Path(__file__).parent.parent / "run.py"


def shared(options: Options) -> dict[str, Any]:
    """Start two clients together; share is what each had by when the first one was done."""
    each = (options.n or 2000) // MEMBERS
    n = each * MEMBERS
    settings = {**RPM_SETTINGS, "record": RECORDED_PER_ITEM * n, "seed": options.seed}
    with server(**settings) as sim:
        members = [_start(sim.url, each) for _ in range(MEMBERS)]
        for member in members:
            assert member.stdout is not None
            assert member.stdout.readline() == b"ready\n"
        reset(sim)
        begin = time.monotonic() + 0.2
        for member in members:
            assert member.stdin is not None
            member.stdin.write(b"%.6f\n" % begin)
            member.stdin.flush()
        reports = [json.loads(member.communicate()[0]) for member in members]
        seen, admitted = sim.stats(), sim.admissions()
    ends = [report["answered_at"] for report in reports]
    first = min(times[-1] for times in ends)
    had = [bisect_right(times, first) for times in ends]
    seconds = max(times[-1] for times in ends) - begin
    ideal = ideal_of_run(SimulatorSettings(**settings), admitted, began=begin)
    result = {
        "what": "two processes, each with half of the items of rpm; both know the quota, "
        "neither knows of the other",
        "n": n,
        "seconds": seconds,
        "ideal": ideal,
        "ratio": seconds / ideal,
        "rejected": seen.rejections / n,
        "lost": sum(report["lost"] for report in reports),
        "shares": [count / sum(had) for count in had],
        "plot": "requests",
        "settings": plain(settings),
        "timeline": timeline(seen),
    }
    also = f", each gets {LEAST_SHARE:.0%} to {1 - LEAST_SHARE:.0%}"
    result = judged(result, most=1.10, most_rejected=0.01, also=also)
    result["met"] = result["met"] and min(result["shares"]) >= LEAST_SHARE
    return result


def _start(url: str, n: int) -> subprocess.Popen[bytes]:
    # A cache of its own: two machines do not share one either.
    cache = tempfile.mkdtemp(prefix="llmflow-benchmark-")
    return subprocess.Popen(
        [sys.executable, str(_RUN), "--member", url, "--n", str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": cache, "LLMFLOW_STATE_DIR": cache},
    )


def member(url: str, n: int) -> None:
    """Be one of the clients: wait for the time to begin, work, say when the answers came."""
    llm = LLM("openai/bench", base_url=url, api_key=KEY, quota=Quota(rpm=RPM, burst_seconds=1.0))
    llm.prepare()
    texts = prompts(n)
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    time.sleep(max(0.0, begin - time.monotonic()))
    times: list[float] = []
    did = asyncio.run(through_llmflow(llm, texts, answered=lambda: times.append(time.monotonic())))
    print(json.dumps({"lost": did.lost, "errors": did.errors, "answered_at": times}))
