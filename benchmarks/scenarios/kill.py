"""`kill`: sessions that are killed at any moment, and the one that ends what they began."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from llmflow.simulator import Latency
from scenarios.checks import Check, checked
from scenarios.command import Command, write_rows
from scenarios.measure import Options, server

KILLS = 8
CONCURRENCY = 50
SEED = 7


def kill(options: Options) -> dict[str, Any]:
    """Kill -9 at random moments after the start; what is left is a whole run, once."""
    n = options.n or 6_000
    rng = random.Random(SEED)
    answered = in_flight = 0
    with (
        server(latency=Latency(seconds=0.1)) as sim,
        tempfile.TemporaryDirectory() as place,
    ):
        folder = Path(place)
        source = write_rows(folder / "in.jsonl", n)
        command = Command(folder, source, sim.url, "--concurrency", str(CONCURRENCY))
        for _ in range(KILLS):
            before = sim.stats().received
            process = command.start()
            _wait_for_requests(sim, before)
            time.sleep(rng.uniform(0.0, 3.0))
            in_flight += sim.stats().in_flight
            process.kill()
            process.wait()
        answered = sim.stats().answered
        ended = command.run()
        lost, doubled = command.missing_and_more(n)
        repeated = sim.stats().received - n
    checks = [
        Check("rows lost", lost + abs(ended.status), "", most=0),
        Check("rows doubled", doubled, "", most=0),
        Check("requests repeated per kill", repeated / KILLS, "", most=CONCURRENCY),
        Check("requests at the server, just before a kill", in_flight / KILLS, ""),
        Check("answers before the last kill", answered, ""),
    ]
    what = f"{n:,} rows, {CONCURRENCY} in flight, latency 0.1 s; {KILLS} times kill -9, then run"
    return checked(what, n, checks, seed=SEED)


def _wait_for_requests(sim: Any, before: int) -> None:
    """Wait until a session has asked, so that none is killed while it only loads."""
    deadline = time.monotonic() + 20
    while sim.stats().received == before:
        if time.monotonic() > deadline:
            raise RuntimeError("the session sent nothing")
        time.sleep(0.02)
