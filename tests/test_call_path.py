"""The files that one call passes, and how often it crosses between packages, stay few."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

from llmflow import Batch
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_process

pytestmark = [pytest.mark.process, pytest.mark.source_tree]

SCRIPT = Path(__file__).parent.parent / "scripts" / "trace_call.py"
QUICK = SimulatorSettings(latency=0.0, batch=BatchSettings(seconds=0.0))
SOON = Batch(quiet=0.05, poll=0.5)
ATTEMPTS = 5
"""A thread that happens to run in between adds some; the least of several is the call's own."""


# Files and crossings; lower them when there are fewer.
@pytest.mark.parametrize(("mode", "files", "crossings"), [("parallel", 16, 14), ("batch", 45, 131)])
def test_a_call_passes_few_files(mode: str, files: int, crossings: int, tmp_path: Path) -> None:
    traced = runpy.run_path(str(SCRIPT))["traced"]
    found = []
    with serve_in_process(QUICK) as simulator:
        for attempt in range(ATTEMPTS):
            folder = tmp_path / f"{attempt}"
            trace = asyncio.run(traced(simulator.url, folder, mode=mode, batch=SOON))
            found.append((len(trace.files), trace.crossings))
            if len(trace.files) <= files and trace.crossings <= crossings:
                return
    pytest.fail(f"{mode}: files and crossings {found}: {trace.files}")
