"""Results of batch jobs that are odd, cut off or without end, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch, result_files
from llmflow.errors import BadReplyError, OutageError, ProviderError, ResultsTooLargeError
from llmflow.journal import read_jobs
from tests.batch.hostile import DIALECTS, HostileJob, HostileServer, Results, Served, served

QUICK = Batch(quiet=0.02, poll=0.002, few=0)
SIZE = 12

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", DIALECTS)]


def ask(
    server: HostileServer,
    dialect: str,
    count: int = SIZE,
    *,
    folder: Path | None = None,
    batch: Batch = QUICK,
    decisions: list[Any] | None = None,
) -> list[Any]:
    """Ask in batch mode; return answers and errors."""
    url = server.url if dialect == "anthropic" else f"{server.url}/v1"
    llm = LLM(f"{dialect}/m", base_url=url, api_key="sk-hostile", max_tokens=50, batch=batch)

    async def main() -> list[Any]:
        given: dict[str, Any] = {} if decisions is None else {"on_event": decisions.append}
        run = Run("run", folder=folder, mode="batch", **given)
        calls: list[Any] = []
        try:
            async with run:
                asked = [llm(f"{n}") for n in range(count)]
                calls += await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)
        except OutageError:
            pass  # the calls have it, too
        return calls

    return asyncio.run(main())


def answers(count: int = SIZE) -> list[str]:
    return [f"re: {n}" for n in range(count)]


def whole(job: HostileJob) -> bytes:
    return b"".join(job.lines)


# --- answers that are odd, but there ------------------------------------------------------------


def with_odd(old: bytes, new: bytes) -> Results:
    """Return results in which each line is changed."""
    return lambda job: whole(job).replace(old, new)


ODD = {
    "lone surrogate": (with_odd(b"re: ", rb"\ud83dre: "), "\ufffdre: "),
    "NaN": (with_odd(b"0.5", b"NaN"), "re: "),
    "Infinity": (with_odd(b"0.5", b"-Infinity"), "re: "),
    "raw control": (with_odd(b"re: ", b"\x01\tre: "), "\x01\tre: "),
    "not UTF-8": (with_odd(b"re: ", b"\xffre: "), "\ufffdre: "),
    "byte order mark": (lambda job: b"\xef\xbb\xbf" + whole(job), "re: "),
    "keep-alive lines": (lambda job: b"\n\r\n \n" * 2000 + whole(job), "re: "),
    "carriage returns": (with_odd(b"\n", b"\r\n"), "re: "),
    "raw line breaks": (with_odd(b"re: ", b"a\n\n{b}\nre: "), "a\n\n{b}\nre: "),
    "no last line break": (lambda job: whole(job).rstrip(), "re: "),
    "all of it": (
        lambda job: (
            b"\xef\xbb\xbf\n\n"
            + whole(job).replace(b"0.5", b"NaN").replace(b"re: ", b"\x02\\udc00\xfe\nre: ")
        ),
        "\x02\ufffd\ufffd\nre: ",
    ),
}


@pytest.mark.parametrize("count", [1, SIZE])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_row_that_was_answered_is_used_and_never_bought_again(
    kind: str, count: int, dialect: str
) -> None:
    results, start = ODD[kind]
    with served(HostileServer(results)) as server:
        expected = [f"{start}{n}" for n in range(count)]
        assert ask(server, dialect, count) == expected
        assert (server.sizes, server.jobs[0].fetches) == ([count], 1)


@pytest.mark.parametrize("count", [1, SIZE])
def test_an_odd_row_in_the_file_of_errors_is_read(count: int, dialect: str) -> None:
    if dialect == "anthropic":
        pytest.skip("it has one file")

    def errors(job: HostileJob) -> bytes:
        return b"\xef\xbb\xbf\n" + b"".join(
            b'{"custom_id":"%b","response":{"status_code":400,"body":{"error":'
            b'{"message":"bad \\ud800 \x01\xff","code":"invalid","x":NaN}}}}\n' % name.encode()
            for name, _ in job.rows
        )

    server = HostileServer(lambda job: b"", errors=errors, counts=lambda job: (0, len(job.rows)))
    with served(server):
        failed = ask(server, dialect, count)
        assert all("bad \ufffd" in str(each) for each in failed)
        assert server.sizes == [count]


# --- results that are not whole -----------------------------------------------------------------


def cut(lines: list[bytes]) -> bytes:
    """Return lines of which the last is cut off."""
    return b"".join(lines)[:-30]


def cut_at_a_brace(lines: list[bytes]) -> bytes:
    """Return lines of which the last is cut where it looks as if it had ended."""
    text = b"".join(lines).rstrip()
    return text[: text.rindex(b"}", 0, len(text) - 2) + 1]


def fewer(lines: list[bytes]) -> bytes:
    """Return all lines but the last few."""
    return b"".join(lines[:-3])


def none(lines: list[bytes]) -> bytes:
    """Return an empty file."""
    return b""


CUTS = [cut, cut_at_a_brace, fewer, none]


def at_first(times: int, change: Callable[[list[bytes]], bytes]) -> Results:
    """Return results that are not whole so often."""
    return lambda job: change(job.lines) if job.fetches <= times else whole(job)


@pytest.mark.parametrize("change", CUTS)
@pytest.mark.parametrize("times", [1, 3])
def test_results_that_are_not_whole_are_fetched_again(
    change: Callable[[list[bytes]], bytes], times: int, dialect: str
) -> None:
    with served(HostileServer(at_first(times, change))) as server:
        assert ask(server, dialect) == answers()
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE], times + 1)


def test_compressed_results_that_are_cut_off_are_fetched_again(dialect: str) -> None:
    def results(job: HostileJob) -> Served:
        body = gzip.compress(whole(job))
        return Served(body if job.fetches > 2 else body[:-20], {"content-encoding": "gzip"})

    with served(HostileServer(results)) as server:
        assert ask(server, dialect) == answers()
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE], 3)


def test_rows_that_never_come_are_asked_again_after_a_few_fetches(
    dialect: str, tmp_path: Path
) -> None:
    decisions = list[Any]()

    def results(job: HostileJob) -> bytes:
        return fewer(job.lines) if job.number == 1 else whole(job)

    with served(HostileServer(results)) as server:
        assert ask(server, dialect, folder=tmp_path, decisions=decisions) == answers()
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE, 3], 4)
        assert server.deleted.count("out-1") == 0, "what is not here is not deleted"
    assert any("results that are not whole" in str(each) for each in decisions)


def test_of_several_cut_downloads_each_row_counts(dialect: str) -> None:
    """The first has the first half, the others have less, or the other half."""

    def results(job: HostileJob) -> bytes:
        half = len(job.lines) // 2
        first, second = job.lines[:half], job.lines[half:]
        return b"".join({1: first, 2: second[:2], 3: second}.get(job.fetches, first[:1]))

    with served(HostileServer(results)) as server:
        assert ask(server, dialect) == answers()
        assert (server.sizes, server.jobs[0].fetches) == ([SIZE], 3)


def test_a_server_that_always_cuts_the_last_line_ends_in_a_named_failure(
    dialect: str, tmp_path: Path
) -> None:
    with served(HostileServer(lambda job: cut(job.lines))) as server:
        got = ask(server, dialect, folder=tmp_path)
        assert [each for each in got if isinstance(each, str)] == answers()[: SIZE - 1]
        failed = got[-1]
        assert isinstance(failed, BadReplyError)
        assert "cannot be read" in str(failed)
        assert server.sizes == [SIZE] + [1] * (QUICK.rounds - 1)
        jobs = len(server.jobs)
        again = ask(server, dialect, folder=tmp_path)
        assert (again[:-1], len(server.jobs)) == (got[:-1], jobs), "no session buys it again"
        assert {job["state"] for job in read_jobs(run_in(tmp_path))} == {"done"}


def test_one_row_alone_whose_line_is_always_cut_is_a_named_failure(dialect: str) -> None:
    with served(HostileServer(lambda job: cut(job.lines))) as server:
        (failed,) = ask(server, dialect, 1)
        assert isinstance(failed, BadReplyError)
        assert server.sizes == [1] * QUICK.rounds


def test_empty_files_of_answered_rows_are_not_paid_again(dialect: str, tmp_path: Path) -> None:
    with served(HostileServer(lambda job: b"\n\n")) as server:
        got = ask(server, dialect, folder=tmp_path)
        assert all(isinstance(each, OutageError) for each in got)
        assert "Nothing is asked again" in str(got[0])
        assert server.sizes == [SIZE]
        server.results = whole
        assert ask(server, dialect, folder=tmp_path) == answers()
        assert server.sizes == [SIZE]


@pytest.mark.parametrize("counts", [None, (10**15, -5), (-1, -1)])
def test_counts_that_are_none_or_absurd_make_no_difference(
    counts: tuple[int, int] | None, dialect: str
) -> None:
    with served(HostileServer(whole, counts=lambda job: counts)) as server:
        assert ask(server, dialect) == answers()
        assert server.sizes == [SIZE]


# --- results without end ------------------------------------------------------------------------


def endless(job: HostileJob) -> Served:
    """Return a stream of junk that goes on for ever."""

    def pieces() -> Any:
        while True:
            yield b"x" * 2**20

    return Served(pieces())


def endless_blanks(job: HostileJob) -> Served:
    def pieces() -> Any:
        while True:
            yield b"\n" * 2**16

    return Served(pieces())


def bomb(content: bytes, window: int) -> Callable[[HostileJob], Served]:
    encoding = "gzip" if window > 15 else "deflate"

    @functools.cache
    def packed() -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, window)
        piece = b"".join(packer.compress(content * 2**20) for _ in range(256))
        return piece + packer.flush()

    def results(job: HostileJob) -> Served:
        return Served(packed(), {"content-encoding": encoding})

    return results


TOO_LARGE = {
    "endless": endless,
    "endless blanks": endless_blanks,
    "gzip": bomb(b"{", 31),
    "deflate": bomb(b" ", 15),
    "raw deflate": bomb(b"\n", -15),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
@pytest.mark.slow
def test_results_without_end_fail_each_row_by_name(kind: str, dialect: str, tmp_path: Path) -> None:
    with served(HostileServer(TOO_LARGE[kind])) as server:
        got = ask(server, dialect, folder=tmp_path)
        assert all(isinstance(each, ResultsTooLargeError) for each in got)
        assert "more than the rows of the batch job can come to" in str(got[0])
        assert (server.sizes, server.jobs[0].fetches, server.deleted) == ([SIZE], 1, [])
        assert not list(run_in(tmp_path).rglob("*.results"))
        again = ask(server, dialect, folder=tmp_path)
        assert [type(each) for each in again] == [ResultsTooLargeError] * SIZE
        assert server.sizes == [SIZE], "no session buys them again"


def test_a_line_that_is_too_long_fails_its_row_alone(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "LONGEST_LINE", 2**20)

    def results(job: HostileJob) -> bytes:
        return whole(job).replace(b"re: 3", b"re: 3" + b"x" * 2**21)

    with served(HostileServer(results)) as server:
        got = ask(server, dialect)
        assert isinstance(got[3], ResultsTooLargeError)
        assert [each for each in got if isinstance(each, str)] == [
            each for each in answers() if each != "re: 3"
        ]
        assert server.sizes == [SIZE]


def test_a_large_answer_is_no_hostile_one(dialect: str) -> None:
    results = with_odd(b"re: ", b"y" * 2**20 + b"re: ")
    with served(HostileServer(results)) as server:
        got = ask(server, dialect)
        assert [len(each) for each in got] == [2**20 + len(each) for each in answers()]


def test_deeply_nested_values_are_a_line_that_cannot_be_read(dialect: str) -> None:
    def results(job: HostileJob) -> bytes:
        return whole(job).replace(b"0.5", b"[" * 100_000, 1)

    with served(HostileServer(results)) as server:
        got = ask(server, dialect)
        assert sum(isinstance(each, ProviderError) for each in got) == 1
        assert server.sizes == [SIZE] + [1] * (QUICK.rounds - 1)


def run_in(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_dir())
