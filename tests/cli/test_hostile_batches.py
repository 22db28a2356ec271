"""The command line, where batch results are odd, cut off or without end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.batch.hostile import DIALECTS, HostileJob, HostileServer, Results, served
from tests.batch.test_hostile_results import (
    cut,
    endless,
    endless_blanks,
    fewer,
    whole,
    with_odd,
)
from tests.cli.conftest import Run, rows_of, write_rows
from tests.cli.sessions import batch_words, configured, report_of, the_run

CONFIG = "[batch]\npoll = 0.01\nquiet = 0.05\n"
SIZE = 8

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", DIALECTS)]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with configured(monkeypatch, CONFIG):
        write_rows("in.jsonl", SIZE)
        yield


def answers(start: str = "re: ") -> dict[int, str]:
    return {n: f"{start}text {n}" for n in range(SIZE)}


def found(name: str = "out.jsonl") -> dict[int, str]:
    return {int(row["index"]): row["response"] for row in rows_of(name)}


@pytest.mark.parametrize(
    ("results", "start"),
    [
        (with_odd(b"re: ", rb"\ud83dre: "), "\ufffdre: "),
        (with_odd(b"0.5", b"NaN"), "re: "),
        (with_odd(b"re: ", b"\x01re: "), "\x01re: "),
        (with_odd(b"re: ", b"\xffre: "), "\ufffdre: "),
        (lambda job: b"\xef\xbb\xbf\n\n\n" + whole(job), "re: "),
    ],
    ids=["surrogate", "NaN", "control", "UTF-8", "BOM and blanks"],
)
def test_odd_rows_are_answers_in_one_session(
    results: Results, start: str, dialect: str, run: Run
) -> None:
    with served(HostileServer(results)) as server:
        result = run(*batch_words(server, dialect, "--json"))
        assert result.code == 0, result.err
        assert (report_of(result)["answered"], found()) == (SIZE, answers(start))
        assert run(*batch_words(server, dialect)).code == 0
        assert server.sizes == [SIZE]


def test_another_session_collects_odd_and_cut_results(dialect: str, run: Run) -> None:
    def results(job: HostileJob) -> bytes:
        text = whole(job).replace(b"re: ", rb"\udc00re: ").replace(b"0.5", b"Infinity")
        return text[:-40] if job.fetches == 1 else text

    with served(HostileServer(results)) as server:
        assert run(*batch_words(server, dialect, "--detach")).code == 0
        name = the_run().name
        assert run("status", name).code == 0
        result = run("resume", name)
        assert result.code == 0, result.err
        assert found() == answers("\ufffdre: ")
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE], 2)
        assert run("status").err == "no run has batch jobs that are still running\n"


def test_rows_that_never_come_are_asked_again_and_told(dialect: str, run: Run) -> None:
    def results(job: HostileJob) -> bytes:
        return fewer(job.lines) if job.number == 1 else whole(job)

    with served(HostileServer(results)) as server:
        result = run(*batch_words(server, dialect))
        assert result.code == 0, result.err
        assert found() == answers()
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE, 3], 4)
        assert "results that are not whole (3 rows)" in result.err


@pytest.mark.parametrize("results", [endless, endless_blanks])
def test_results_without_end_are_named_failures(results: Results, dialect: str, run: Run) -> None:
    with served(HostileServer(results)) as server:
        result = run(*batch_words(server, dialect))
        assert result.code == 1, result.err
        assert "Traceback" not in result.err
        failed = rows_of("out.failed.jsonl")
        assert len(failed) == SIZE
        assert all("more than the rows of the batch job" in str(row["error"]) for row in failed)
        assert run("status").err == "no run has batch jobs that are still running\n"
        assert run(*batch_words(server, dialect)).code == 1
        assert server.sizes == [SIZE], "no session buys them again"


def test_a_line_that_is_always_cut_is_one_named_failure(dialect: str, run: Run) -> None:
    with served(HostileServer(lambda job: cut(job.lines))) as server:
        assert run(*batch_words(server, dialect)).code == 1
        jobs = len(server.jobs)
        assert len(found()) == SIZE - 1
        (failed,) = rows_of("out.failed.jsonl")
        assert "cannot be read" in str(failed["error"])
        assert run(*batch_words(server, dialect)).code == 1
        assert len(server.jobs) == jobs


def test_empty_files_end_the_session_and_the_next_one_looks_again(dialect: str, run: Run) -> None:
    with served(HostileServer(lambda job: b"")) as server:
        result = run(*batch_words(server, dialect))
        assert result.code == 3, result.err
        assert "Nothing is asked again, as that is paid for" in result.err
        assert "Traceback" not in result.err
        name = the_run().name
        assert f"`llmflow resume {name}` collects the answers" in run("status", name).err
        server.results = whole
        result = run("resume", name)
        assert result.code == 0, result.err
        assert (found(), server.sizes) == (answers(), [SIZE])
