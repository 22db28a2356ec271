"""`at-once`: thousands of calls in flight at once over TLS, handshakes included."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
from scenarios.checks import Check, checked
from scenarios.measure import KEY, Options
from scenarios.tls_server import WARM_UP, TlsServer

ROUNDS = 3
PAUSE = 8.0
MOST_MB = 80.0
KINDS = ("asyncio", "uvloop")


def at_once(options: Options) -> dict[str, Any]:
    """Ask all at once, again after pauses, on both kinds of event loop."""
    n = options.n or 9000
    checks = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
            cpu = cores[-1] if len(cores) > 1 else None
            with TlsServer(n, Path(folder), cpu=cpu) as server:
                did = _client(kind, server, n, None if cpu is None else cores[0])
        opened = (server.saw["connections"] - 1) / n
        checks += [
            Check(f"{kind}: calls that failed, of {ROUNDS} x {n:,}", did["failed"], "", most=0),
            Check(
                f"{kind}: requests that waited at the server at once",
                server.saw["most"],
                "",
                least=n,
            ),
            Check(f"{kind}: client's memory per 1,000 in flight", did["mb"], "MB", most=MOST_MB),
            Check(f"{kind}: connections opened in {ROUNDS} rounds, per call of one", opened),
            Check(f"{kind}: CPU per call, opening its connection", did["cpu_us"][0], "us"),
            Check(f"{kind}: CPU per call, connections kept", min(did["cpu_us"][1:]), "us"),
        ]
    what = f"{n:,} calls at once over TLS, {ROUNDS} times with {PAUSE:g} s between; no answer "
    return checked(f"{what}before all have come", n, checks)


def _client(kind: str, server: TlsServer, n: int, cpu: int | None) -> dict[str, Any]:
    """Ask from a process of its own, which trusts the server's certificate."""
    command = [sys.executable, __file__, kind, server.url, str(n), "" if cpu is None else str(cpu)]
    env = {**os.environ, "SSL_CERT_FILE": str(server.certificate)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


async def _ask(url: str, n: int) -> dict[str, Any]:
    from llmflow import LLM, Quota
    from llmflow.errors import LLMFlowError

    quota = Quota(rpm=10**9, max_concurrent=n)
    llm = LLM("openai/bench", base_url=url, api_key=KEY, quota=quota)
    errors: Counter[str] = Counter()
    await llm(WARM_UP.decode())
    gc.collect()
    before, top, cpu = _resident(), 0.0, []

    async def watch() -> None:
        nonlocal top
        while True:
            top = max(top, _resident())
            await asyncio.sleep(0.1)

    async def one(text: str) -> None:
        try:
            await llm(text)
        except LLMFlowError as error:
            errors[str(error)] += 1

    watching = asyncio.ensure_future(watch())
    for turn in range(ROUNDS):
        if turn:
            await asyncio.sleep(PAUSE)
        start = time.process_time()
        await asyncio.gather(*(one(f"Summarize: {turn}.{number}.") for number in range(n)))
        cpu.append((time.process_time() - start) / n * 1e6)
    watching.cancel()
    for text, number in errors.most_common(3):
        print(f"{number} x {text}", file=sys.stderr)
    return {"failed": errors.total(), "mb": (top - before) / n * 1000, "cpu_us": cpu}


def _resident() -> float:
    """Return the memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(kind: str, url: str, n: str, cpu: str) -> None:
    """Be the client."""
    from llmflow import loops, raise_connection_limit

    if cpu:
        os.sched_setaffinity(0, {int(cpu)})
    raise_connection_limit(int(n))
    run = loops.run if kind == "uvloop" else asyncio.run
    print(json.dumps(run(_ask(url, int(n)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
