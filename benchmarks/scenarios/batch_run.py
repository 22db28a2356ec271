"""`batch-run`: five times as many rows through `llmflow run --mode batch` take no more memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmflow.simulator import BatchSettings
from scenarios.checks import Check, checked
from scenarios.command import Command, Ended, write_rows
from scenarios.measure import Options, server

ROWS = 200_000  # 1,000,000 by --n 1000000, for some minutes and gigabytes
CHARACTERS = 970  # with its number and its name a row has 1,000 bytes
LEAST_ROWS_PER_SECOND = 22_000.0
MOST_MEGABYTES = 350.0
MOST_GROWTH = 1.2
PART = 5
QUICK = BatchSettings(seconds=1.0, validation_seconds=0.1, finalizing_seconds=0.1)


def batch_run(options: Options) -> dict[str, Any]:
    """Run a fifth of the rows, then all of them."""
    rows = options.n or ROWS
    few, few_lost, _ = in_jobs(rows // PART)
    many, lost, used = in_jobs(rows)
    checks = [
        Check("rows a second of a core", rows / many.cpu, "/s", least=LEAST_ROWS_PER_SECOND),
        Check("peak", many.peak_mb, "MB", most=MOST_MEGABYTES),
        Check(
            f"that / peak of {rows // PART:,} rows", many.peak_mb / few.peak_mb, most=MOST_GROWTH
        ),
        Check("minutes", many.seconds / 60, ""),
        Check("disk of the run's folder", used, "MB"),
        Check("rows lost or doubled", lost + few_lost, "", most=0),
    ]
    return checked("JSONL rows of 1,000 bytes through `llmflow run --mode batch`", rows, checks)


def in_jobs(rows: int) -> tuple[Ended, int, float]:
    """Run so many rows; return what it took, the rows lost, and the megabytes left behind."""
    with tempfile.TemporaryDirectory() as place, server(answer="echo", batch=QUICK) as sim:
        folder = Path(place)
        (folder / "llmflow.toml").write_text("[batch]\npoll = 0.2\n")
        source = write_rows(folder / "in.jsonl", rows, characters=CHARACTERS)
        command = Command(folder, source, sim.url, "--mode", "batch", "--max-tokens", "50")
        ended = command.run()
        lost = abs(ended.status) + command.lost(rows)
        used = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
        return ended, lost, used / 2**20
