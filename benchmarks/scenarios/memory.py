"""`memory`: a source that is ten times as long takes no more memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from scenarios.checks import Check, checked
from scenarios.command import Command, write_rows
from scenarios.measure import Options, server

MOST_MEGABYTES = 250.0
MOST_GROWTH = 1.3
PART = 10
# Below this many rows, caches that have a bound still fill: growth is shown, but not judged.
FULL = 100_000


def memory(options: Options) -> dict[str, Any]:
    """Run a tenth of the rows, then all, each asked and then answered from the journal."""
    n = options.n or 100_000
    peaks: dict[str, float] = {}
    lost = 0
    seconds = 0.0
    with server(latency=0.0) as sim:
        for count in (n // PART, n):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                command = Command(folder, write_rows(folder / "in.jsonl", count), sim.url)
                for way in ("asked", "replayed"):
                    ended = command.run()
                    peaks[f"{way} {count}"] = ended.peak_mb
                    lost += abs(ended.status) + command.lost(count)
                    if way == "asked":
                        seconds = ended.seconds
    most_growth = MOST_GROWTH if n // PART >= FULL else None
    checks = []
    for way in ("asked", "replayed"):
        most, least = peaks[f"{way} {n}"], peaks[f"{way} {n // PART}"]
        checks += [
            Check(f"peak, {n:,} rows {way}", most, "MB", most=MOST_MEGABYTES),
            Check(f"that / peak of {n // PART:,} rows", most / least, most=most_growth),
        ]
    checks += [
        Check("rows asked and written down", n / seconds, "/s"),
        Check("rows lost or doubled", lost, "", most=0),
    ]
    what = "JSONL rows of 200 bytes through `llmflow run`, the journal on, no limits, no latency"
    return checked(what, n, checks)
