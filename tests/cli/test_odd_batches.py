"""The command line in batch mode, where rows are odd but honest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.batch.hostile import DIALECTS, HostileJob, HostileServer, served
from tests.batch.test_odd_rows_over_http import row
from tests.cli.conftest import Run, rows_of, write_rows
from tests.cli.sessions import batch_words, configured, report_of, the_run
from tests.odd_server import answer

CONFIG = "[batch]\npoll = 0.01\nquiet = 0.05\nfew = 0\n"
SIZE = 12

pytestmark = [pytest.mark.http, pytest.mark.parametrize("dialect", DIALECTS)]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with configured(monkeypatch, CONFIG):
        write_rows("in.jsonl", SIZE)
        yield


def mixed(job: HostileJob) -> bytes:
    """Return what passes as 0 and 1, what is filtered as 2, and cut and empty answers."""
    odd = {
        "text 0": answer(job.dialect, "", ending=None, error={"code": "429", "message": "slow"}),
        "text 1": answer(job.dialect, "Half", ending="NETWORK_ERROR"),
    }
    if job.number > 1:
        odd.clear()
    odd["text 2"] = answer(job.dialect, "Half an ans", ending="content_filter")
    odd["text 3"] = answer(job.dialect, "Cut o", ending="max_tokens")
    odd["text 4"] = answer(job.dialect, "")
    lines = job.lines
    for at, (name, text) in enumerate(job.rows):
        if text in odd:
            lines[at] = row(job.dialect, name, odd[text])
    return b"".join(lines)


@pytest.mark.parametrize("is_detached", [False, True])
def test_odd_rows_are_told_apart_and_bought_once(is_detached: bool, dialect: str, run: Run) -> None:
    with served(HostileServer(mixed)) as server:
        if is_detached:
            assert run(*batch_words(server, dialect, "--details", "--detach")).code == 0
        result = run(*batch_words(server, dialect, "--details", "--json"))
        assert result.code == 1, result.err
        assert server.sizes == [SIZE, 2]
        report = report_of(result)
        assert (report["answered"], report["failed"]) == (SIZE - 1, 1)
        assert (report["cut"], report["empty"], report["retried"]) == (1, 1, 2)
        check()
        again = run("resume", the_run().name, "--json")
        assert again.code == 1, again.err
        assert server.sizes == [SIZE, 2], "no session buys them again"
        report = report_of(again)
        assert (report["cut"], report["empty"]) == (1, 1)
        check()


def check() -> None:
    rows = {row["index"]: row for row in rows_of("out.jsonl")}
    assert sorted(rows) == [0, 1, *range(3, SIZE)]
    assert [rows[n]["response"] for n in (0, 1, 3, 4)] == ["re: text 0", "re: text 1", "Cut o", ""]
    assert [rows[n]["finish_reason"] for n in (0, 3, 4)] == ["stop", "length", "stop"]
    assert [rows[n]["attempts"] for n in (0, 1, 3)] == [2, 2, 1]
    assert all(row["input_tokens"] == 8 for row in rows.values())
    (failed,) = rows_of("out.failed.jsonl")
    assert (failed["index"], failed["error"]["type"]) == (2, "ContentFilterError")
    assert failed["error"]["partial_text"] == "Half an ans"
