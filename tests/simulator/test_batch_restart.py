"""The simulator's batch jobs over its own death: nothing is lost, and nothing billed twice."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmflow.simulator import SimulatorProcess, SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches.life import Results
from llmflow.simulator.batches.store import BatchCounts, Store
from tests.simulator.batch_provider import Anthropic, Dialect, OpenAI, Provider

SPEED: dict[str, Any] = {
    "seconds": 10.0,
    "validation_seconds": 2.0,
    "finalizing_seconds": 1.0,
    "cancel_seconds": 1.0,
}
both = pytest.mark.parametrize("dialect", [OpenAI, Anthropic])


class Deaths:
    """Keeps what a kill would leave on the disk, at every moment at which that changes."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._state = state
        self.kept: list[tuple[float, Path]] = []
        self.sim: Provider | None = None
        for owner, name in ((Store, "_write"), (Results, "rename")):
            monkeypatch.setattr(owner, name, self._before(getattr(owner, name)))

    def keep(self) -> None:
        if self.sim is not None:
            folder = self._state.with_name(f"dead-{len(self.kept)}")
            shutil.copytree(self._state, folder)
            self.kept.append((self.sim.at, folder))

    def _before(self, change: Any) -> Any:
        def changed(*args: Any) -> None:
            self.keep()
            change(*args)

        return changed


@both
def test_a_job_goes_on_after_a_death_at_any_moment(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    deaths = Deaths(state, monkeypatch)
    with Provider(state=state, **SPEED) as sim:
        ident = dialect(sim).create(10)
        deaths.sim = sim
        for second in range(14):
            sim.until(float(second))
            deaths.keep()
        whole, billed = dialect(sim).results(ident), sim.counts()
        files = sim.ask("GET", "/v1/files").data["data"]
    deaths.sim = None
    assert len(deaths.kept) > 14
    assert set(whole.values()) == {"succeeded"}
    for at, folder in deaths.kept:
        with Provider(state=folder, at=at, **SPEED) as sim:
            sim.until(at + 20.0)
            assert dialect(sim).results(ident) == whole, folder
            assert sim.counts() == billed
            assert [dict(f, created_at=0, expires_at=0, id="") for f in files] == [
                dict(f, created_at=0, expires_at=0, id="")
                for f in sim.ask("GET", "/v1/files").data["data"]
            ], folder
            left = {path.name for path in (folder / "data").iterdir()}
            assert len(left) == (2 if dialect is OpenAI else 1), folder


@both
def test_a_cancelled_job_ends_as_it_would_have_after_a_death_at_any_moment(
    dialect: Dialect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    deaths = Deaths(state, monkeypatch)
    with Provider(state=state, **SPEED) as sim:
        ident = dialect(sim).create(10)
        sim.until(6.0)
        dialect(sim).cancel(ident)
        deaths.sim = sim
        deaths.keep()
        sim.until(8.0)
        whole, billed = dialect(sim).results(ident), sim.counts()
    deaths.sim = None
    assert set(whole.values()) == {"succeeded", "cancelled"}
    for at, folder in deaths.kept:
        with Provider(state=folder, at=at, **SPEED) as sim:
            sim.until(at + 1.0)
            assert (dialect(sim).results(ident), sim.counts()) == (whole, billed)


def test_a_cancellation_during_validation_need_not_wait_for_that_after_a_death(
    tmp_path: Path,
) -> None:
    slow = {**SPEED, "validation_seconds": 600.0}
    with Provider(state=tmp_path, **slow) as sim:
        ident = OpenAI(sim).create(10)
        sim.until(1.0)
        OpenAI(sim).cancel(ident)
    with Provider(state=tmp_path, at=1.5, **slow) as sim:
        sim.until(1.9)
        assert OpenAI(sim).status(ident) == "cancelling"
        sim.until(2.0)
        assert OpenAI(sim).status(ident) == "cancelled"
        assert sim.counts().rows_billed == 0


@both
def test_a_job_whose_time_ends_while_the_simulator_is_dead_has_what_was_due(
    dialect: Dialect, tmp_path: Path
) -> None:
    slow = {**SPEED, "validation_seconds": 0.0, "expiry_seconds": 5.0}
    with Provider(state=tmp_path, **slow) as sim:
        ident = dialect(sim).create(10)
        sim.until(2.0)
        assert sim.counts().rows_billed == 2
    with Provider(state=tmp_path, at=100_000.0, **slow) as sim:
        sim.until(100_000.0)
        kinds = list(dialect(sim).results(ident).values())
        assert (kinds.count("succeeded"), kinds.count("expired")) == (5, 5)
        assert sim.counts().rows_billed == 5


def test_a_death_while_a_large_list_is_taken_leaves_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmflow.simulator.batches.service._TURN_SECONDS", -1.0)
    body = Anthropic.body(8, system="x" * 40_000)
    state, dead = tmp_path / "state", tmp_path / "dead"
    with Provider(state=state, **SPEED) as sim:
        sim.ask("POST", "/v1/messages/batches", body, upload=True, later=lambda _: None)
        assert sum(path.stat().st_size for path in (state / "data").iterdir()) > len(body)
        shutil.copytree(state, dead)
    with Provider(state=dead, **SPEED) as sim:
        assert (Anthropic(sim).jobs(), sim.counts().jobs_created) == ([], 0)
        assert not list((dead / "data").iterdir())


def ask(sim: SimulatorProcess, method: str, path: str, body: bytes | None = None) -> bytes:
    """Return the body of an answer of a real simulator."""
    address = sim.root_url.removeprefix("http://")
    web = http.client.HTTPConnection(address, timeout=20)
    try:
        headers = {"x-api-key": "sk-right", "anthropic-version": "2023-06-01"}
        web.request(method, path, body, headers)
        answer = web.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        web.close()


def until(sim: SimulatorProcess, enough: Callable[[BatchCounts], bool]) -> BatchCounts:
    """Return the counts of a real simulator as soon as there is enough of something."""
    end = time.monotonic() + 20.0
    while not enough(counts := sim.stats().batches):
        assert time.monotonic() < end, counts
        time.sleep(0.01)
    return counts


@pytest.mark.process
def test_a_killed_simulator_goes_on_with_its_job_and_bills_no_row_twice(tmp_path: Path) -> None:
    def settings(**speed: float) -> SimulatorSettings:
        return SimulatorSettings(batch=BatchSettings(state=str(tmp_path), **speed))  # type: ignore[arg-type]

    jobs = "/v1/messages/batches"
    with SimulatorProcess(settings(rows_per_second=500.0)) as sim:
        job = json.loads(ask(sim, "POST", jobs, Anthropic.body(2000)))
        before = until(sim, lambda counts: counts.rows_billed > 0)
        os.kill(sim.pid, signal.SIGKILL)
    assert before.rows_billed < 2000
    with SimulatorProcess(settings(seconds=0.1)) as sim:
        (shown,) = json.loads(ask(sim, "GET", jobs))["data"]
        assert shown["id"] == job["id"]
        until(sim, lambda counts: counts.rows_billed == 2000)
        shown = json.loads(ask(sim, "GET", f"{jobs}/{job['id']}"))
        assert shown["processing_status"] == "ended"
        assert shown["request_counts"]["succeeded"] == 2000
        lines = ask(sim, "GET", f"{jobs}/{job['id']}/results").splitlines()
        rows = {row["custom_id"]: row["result"] for row in map(json.loads, lines)}
        assert (len(lines), set(rows)) == (2000, {f"r-{n}" for n in range(2000)})
        counts = sim.stats().batches
    assert (counts.jobs_created, counts.rows_billed) == (1, 2000)
    assert counts.rows_billed_twice == counts.bodies_billed_twice == 0
    used = [row["message"]["usage"] for row in rows.values()]
    assert counts.input_tokens == sum(use["input_tokens"] for use in used)
    assert counts.output_tokens == sum(use["output_tokens"] for use in used)
