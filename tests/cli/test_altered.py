"""Answers that were altered on disk between two sessions are asked again, and told in one line."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llmflow.simulator import BatchSettings
from tests.cli.conftest import write_rows
from tests.cli.sessions import (
    Process,
    Start,
    answers,
    ended,
    journal_of,
    recorded,
    report_of,
    the_run,
    words,
)

pytestmark = pytest.mark.process

QUICK = BatchSettings(seconds=0.2, validation_seconds=0.05, finalizing_seconds=0.05)
TOLD = (
    "2 rows of its journal were altered on disk: they were not used, their questions are "
    "asked again"
)


def alter_two() -> None:
    """Change a letter of two answers, in the bytes of the file."""
    path = journal_of(the_run())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    for number in (3, 7):
        assert b"text %d" % number in content
        content = content.replace(b"text %d" % number, b"texT %d" % number)
    path.write_bytes(content)


@pytest.mark.parametrize("command", ["run", "resume"])
@pytest.mark.parametrize("mode", ["parallel", "batch"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_altered_answers_are_asked_again(
    process: Process, simulator: Start, dialect: str, mode: str, command: str
) -> None:
    Path("llmflow.toml").write_text("[batch]\npoll = 0.05\nquiet = 0.05\n")
    sim = simulator(batch=QUICK)
    url = sim.url if dialect == "openai" else sim.url.removesuffix("/v1")
    write_rows("in.jsonl", 9)
    options = ["--model", f"{dialect}/x", "--base-url", url, "--max-tokens", "50", "--mode", mode]
    line = words(sim, *options, "--json", "--config", "llmflow.toml")
    assert ended(process(*line)).code == 0
    assert answers() == [f"text {n}" for n in range(9)]

    alter_two()
    Path("out.jsonl").unlink()
    again = line if command == "run" else ["resume", the_run().name, "--json"]
    result = ended(process(*again))
    report = report_of(result)
    assert result.code == 0
    assert answers() == [f"text {n}" for n in range(9)], "none of them is the altered one"
    assert (report["run"]["altered"], report["run"]["answered"]) == (2, 2)
    assert [text for text in result.err.splitlines() if "altered" in text] == [
        f"llmflow: run {the_run().name}: {TOLD}"
    ]
    assert recorded(the_run()) == 9

    Path("out.jsonl").unlink()
    result = ended(process(*line))
    assert answers() == [f"text {n}" for n in range(9)]
    assert report_of(result)["run"]["replayed"] == 9
    assert "altered" not in result.err
