"""A program that is killed at any step of a job's life is run again: never twice, never lost.

The provider is the simulator in a process of its own, the program another, and the kill a
SIGKILL of itself (see `tests.batch.killable` for how points are named). Then the same program
runs to its end. Whatever the point, each item has its own answer, no row was paid for twice, the
provider has no job that the journal does not know, and nothing is left on the disk. All that a
kill may cost is a second upload, which nobody pays for:

=================================  ===========================================================
killed                             the next session
=================================  ===========================================================
while rows are collected           collects them again
before the job is written down     collects them again, and removes the file
when it is sealed                  uploads it
before, after the upload           uploads it (again)
when it is written down as         looks for it, and then creates it
creating, before the request
after the request to create it     looks for it, and finds it
when it is written down as created looks after it
before, after a look               looks again
before, after, while a fetch       fetches again
when it is written down as fetched reads the results
before, after a file's deletion    deletes what is left, and reads the results
before, after the search for a     looks for it, and finds it
job whose creation nobody answered
after 1, 10, 39, 40 answers        reads the results, and gives out what is not in the journal
before, after it is done           ends it, and removes its files
at any step of a refusal           is refused again, or goes on with the jobs it was split into
at any step of a next round        reads the results again, or goes on with the next job
at any step of a cache primer      goes on with it, and then with the job that waits for it
at any step of a deadline          cancels again; asks in parallel what has no answer
=================================  ===========================================================
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from llmflow.journal import read_jobs
from llmflow.simulator import BatchSettings, SimulatorProcess, SimulatorSettings
from tests.batch.killable import ITEMS, Program, play

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL, no server of forks"),
    pytest.mark.slow,
]

FAST: dict[str, Any] = {
    "seconds": 0.05,
    "validation_seconds": 0.01,
    "finalizing_seconds": 0.01,
    "cancel_seconds": 0.02,
}
EVERY_JOB = tuple(range(1, 1000))
BAD = 7
AT_ONCE = 6
PATIENCE = 90.0
DEADLINE = 60.0  # near as soon as jobs stand still: see killable


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A provider's ways, a program, and the points at which that is killed, or not at all."""

    batch: Mapping[str, Any] = field(default_factory=dict)
    program: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[str | None, ...]
    rows: int = ITEMS
    """How many rows of a program are answered in jobs."""
    live: int = 0
    """How many of its items are asked in parallel."""
    jobs: int | None = None
    """How many jobs a program has, killed or not; None where that is a matter of chance."""


SCENES = {
    "plain": Scene(
        jobs=1,
        points=(
            None,
            "while collect",
            "before sealed",
            "after sealed",
            "before upload",
            "after upload",
            "before creating",
            "after creating",
            "before create",
            "after create",
            "before created",
            "after created",
            "before look",
            "after look",
            "before fetch",
            "while save",
            "after fetch",
            "before fetched",
            "after fetched",
            "before delete",
            "after delete",
            "answered 1",
            "answered 10",
            "answered 39",
            "answered 40",
            "before done",
            "after done",
        ),
    ),
    "a long job": Scene(batch={"seconds": 2.0}, jobs=1, points=("after look 2",)),
    "a second round": Scene(
        batch={"expired_rows": 0.25},
        points=(
            None,
            "answered 5",
            "before next round",
            "after next round",
            "before done",
            "before create 2",
            "after create 2",
            "after fetch 3",
        ),
    ),
    "a bad row": Scene(
        program={"bad": BAD},
        rows=ITEMS - 1,
        jobs=2,
        points=(
            None,
            "after look",
            "before copy",
            "after copy",
            "before split",
            "after split",
            "before create 2",
            "after create 2",
            "before fetch",
        ),
    ),
    "a deadline": Scene(
        batch={"stuck_jobs": EVERY_JOB},
        # A job whose cancellation is not told within some looks is left alone at a deadline.
        program={"deadline": DEADLINE, "poll": 0.3},
        rows=ITEMS // 2,
        live=ITEMS // 2,
        jobs=1,
        points=(
            None,
            "before cancel",
            "after cancel",
            "before fetch",
            "answered 10",
            "before ask",  # not later: what is on its way then may be paid for twice
        ),
    ),
    "a lost reply": Scene(
        batch={"lost_creates": EVERY_JOB},
        jobs=1,
        points=(None, "before find", "after find", "before created"),
    ),
    "Anthropic": Scene(
        program={"model": "anthropic/killed"},
        jobs=1,
        points=(
            None,
            "before create",
            "after create",
            "before created",
            "before fetch",
            "while save",
            "answered 10",
            "before done",
        ),
    ),
    "a primer": Scene(
        program={"model": "anthropic/killed", "primes": True},
        jobs=2,
        points=(
            None,
            "after copy",
            "before split",
            "after split",
            "before create",
            "after create",
            "before fetch",
            "answered 1",
            "before done",
            "after done",
            "before create 2",
            "after create 2",
            "answered 10",
        ),
    ),
}
UPLOADED_AGAIN = (
    "after upload",
    "before creating",
    "after creating",
    "before create",
    "before create 2",
)


@dataclass(kw_only=True)
class Played:
    """What became of a program: how it was killed, how it ended, and its jobs at the provider."""

    program: Program
    point: str | None
    statuses: list[int] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    def check(self, rows: int) -> None:
        """See that each item has its own answer, and that so many rows were paid for."""
        kill = [] if self.point is None else [-signal.SIGKILL]
        assert self.statuses == [*kill, 0]
        assert json.loads(self.program.output.read_bytes()) == expected_of(self.program)
        assert sum(map(answered_of, self.jobs)) == rows
        run = self.program.folder / "killed"
        records = read_jobs(run)
        assert {each["state"] for each in records} == {"done"}
        assert {each["job"] for each in records if "job" in each} == {e["id"] for e in self.jobs}
        assert list((run / "batches").iterdir()) == []
        if not self.program.model.startswith("anthropic/"):
            # What was uploaded twice is there until it expires.
            assert len(self.files) == (self.point in UPLOADED_AGAIN)


def expected_of(program: Program) -> list[str]:
    """Return what the items' answers are."""
    answers = list(program.prompts)
    if program.bad is not None:
        answers[program.bad] = "InvalidRequestError"
    return answers


def answered_of(job: Mapping[str, Any]) -> int:
    """Return how many rows of a job were paid for."""
    counts = job["request_counts"]
    return int(counts["completed"] if "completed" in counts else counts["succeeded"])


class Stage:
    """Where programs play: warm processes, and folders that outlive them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.batch.killable"])
        self._programs = 0

    def program(self, url: str, **options: Any) -> Program:
        """Return a program that asks what no other does."""
        self._programs += 1
        folder = self.folder / f"program {self._programs}"
        folder.mkdir()
        return Program(url=url, folder=folder, name=f"Program {self._programs}", **options)

    def start(self, program: Program) -> Any:
        """Begin with a program in a process of its own."""
        process = self._processes.Process(target=play, args=(program,))
        process.start()
        return process

    def play(self, given: Iterable[Played]) -> list[Played]:
        """Have programs killed at their points, then run again to their end, some at once."""
        all_of_them = list(given)
        left = [(each, True) for each in all_of_them if each.point is not None]
        left += [(each, False) for each in all_of_them if each.point is None]
        running: dict[int, tuple[Any, Played, bool]] = {}
        while left or running:
            while left and len(running) < AT_ONCE:
                played, is_first = left.pop(0)
                point = played.point if is_first else None
                process = self.start(replace(played.program, point=point))
                running[process.sentinel] = process, played, is_first
            ended = connection.wait(list(running), timeout=PATIENCE)
            if not ended:
                for process, _, _ in running.values():
                    process.kill()
                pytest.fail(f"hang: {[played.point for _, played, _ in running.values()]}")
            for sentinel in ended:
                process, played, is_first = running.pop(sentinel)  # type: ignore[index]
                process.join()
                played.statuses.append(process.exitcode)
                if is_first:
                    left.insert(0, (played, False))
        for played in all_of_them:
            played.jobs = jobs_of(played.program)
            played.files = files_of(played.program)
        return all_of_them


def jobs_of(program: Program) -> list[dict[str, Any]]:
    """Return the jobs that a program has at the provider."""
    if program.model.startswith("anthropic/"):
        url = f"{program.url}/v1/messages/batches?limit=100"
        headers = {"x-api-key": program.key, "anthropic-version": "2023-06-01"}
    else:
        url = f"{program.url}/batches?limit=100"
        headers = {"authorization": f"Bearer {program.key}"}
    with urlopen(Request(url, headers=headers), timeout=10) as reply:
        return list(json.loads(reply.read())["data"])


def files_of(program: Program) -> list[dict[str, Any]]:
    """Return the files that a program has left at the provider."""
    if program.model.startswith("anthropic/"):
        return []  # it has none
    headers = {"authorization": f"Bearer {program.key}"}
    with urlopen(Request(f"{program.url}/files", headers=headers), timeout=10) as reply:
        return list(json.loads(reply.read())["data"])


def settings_of(state: Path, *, port: int = 0, **batch: Any) -> SimulatorSettings:
    """Return what a quick provider is set to that can be killed, too."""
    ways = BatchSettings(**{**FAST, **batch}, state=str(state))
    return SimulatorSettings(latency=0.0, answer="echo", port=port, batch=ways)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"))


@pytest.mark.parametrize("name", SCENES)
def test_killed_at_any_step_nothing_is_lost_and_nothing_paid_twice(stage: Stage, name: str) -> None:
    scene = SCENES[name]
    with SimulatorProcess(settings_of(stage.folder / name, **scene.batch)) as simulator:
        at_anthropic = "anthropic" in scene.program.get("model", "")
        url = simulator.root_url if at_anthropic else simulator.url
        played = stage.play(
            Played(program=stage.program(url, **scene.program), point=point)
            for point in scene.points
        )
        stats = simulator.stats()
    problems = {}
    for each in played:
        try:
            each.check(scene.rows)
        except (AssertionError, OSError) as error:
            problems[each.point] = str(error)
    assert not problems
    bill, count = stats.batches, len(played)
    assert (bill.rows_billed_twice, bill.bodies_billed_twice) == (0, 0)
    assert bill.rows_billed == scene.rows * count
    assert stats.answered == scene.live * count
    assert bill.jobs_created == sum(len(each.jobs) for each in played)
    if scene.jobs is not None:
        assert {each.point: len(each.jobs) for each in played} == dict.fromkeys(
            scene.points, scene.jobs
        )
    if not at_anthropic:
        repeated = sum(each.point in UPLOADED_AGAIN for each in played)
        assert bill.files_uploaded == bill.jobs_created + repeated


def test_a_provider_that_is_killed_and_comes_back_is_waited_for(stage: Stage) -> None:
    settings = settings_of(stage.folder / "killed", seconds=0.5)
    with SimulatorProcess(settings) as simulator:
        program = stage.program(simulator.url)
        process = stage.start(program)
        while not jobs_of(program):
            assert process.is_alive()
        os.kill(simulator.pid, signal.SIGKILL)
    port = urlsplit(simulator.url).port
    process.join(timeout=0.3)
    assert process.is_alive()
    again = replace(settings, port=port)
    with SimulatorProcess(again) as simulator:
        process.join(timeout=PATIENCE)
        assert process.exitcode == 0
        played = Played(program=program, point=None, statuses=[0], jobs=jobs_of(program))
        played.check(ITEMS)
        assert simulator.stats().batches.jobs_created == 1
        assert simulator.stats().batches.rows_billed_twice == 0
