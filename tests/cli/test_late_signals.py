"""A signal after all is told changes neither what was said nor the exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from llmflow.rows import RowSource
from tests.cli.conftest import Run, listing, write_rows

pytestmark = pytest.mark.http

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
AT_EXIT = """
import atexit, os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(os.kill, os.getpid(), {number})
from llmflow.cli.main import main
main()
"""


@pytest.mark.parametrize("number", STOPS)
def test_while_a_run_puts_its_things_away(
    number: signal.Signals, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = [signal.getsignal(each) for each in STOPS]
    close = RowSource.close

    def interrupted(rows: RowSource) -> None:
        close(rows)
        if "out.jsonl" in listing():
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RowSource, "close", interrupted)
    write_rows("in.jsonl", 3)
    try:
        end = run("run", "in.jsonl", "-p", "{text}", "-m", "sim/demo", "-o", "out.jsonl")
        assert [signal.getsignal(each) for each in STOPS] == before
    finally:
        signal.signal(signal.SIGHUP, heard)
    assert end.code == 0
    assert "3 of 3 answered" in end.err
    assert "nothing was written" not in end.err


@pytest.mark.parametrize("number", STOPS)
def test_while_python_ends(number: signal.Signals) -> None:
    code = AT_EXIT.format(number=int(number))
    for words, expected in (["--version"], 0), (["rnu"], 2):
        done: Any = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (expected, False)
        assert done.stdout or done.stderr
