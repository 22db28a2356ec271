"""What reaches the terminal is harmless, and a terminal that is gone is no error."""

from __future__ import annotations

import io
import sys
import time

import pytest

from llmflow.cli.terminal import Notice, TerminalRows, complain, printable, say, write
from tests.cli.conftest import wait_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_printable_keeps_text_and_drops_what_a_terminal_obeys() -> None:
    assert printable("one\n two\t\x1b[31mthree \x9b\u202e\x07 é 漢") == "one two [31mthree é 漢"


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a\nb\rc")
    assert capsys.readouterr().err == "llmflow: error: a b c\n"


def test_several_lines_stay_several(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb\x1b")
    assert capsys.readouterr().err == "a\nb\n"


@pytest.mark.parametrize("stream", [None, Gone()])
def test_a_stream_that_is_gone_is_passed_over(stream: Gone | None) -> None:
    assert not write(stream, "text")


def test_rows_for_a_terminal_are_still_json() -> None:
    stream = Terminal()
    rows = TerminalRows(stream)
    data = '{"a":"\x9b \u202e 😀\\n"}\n'.encode()
    assert rows.write(memoryview(data)) == len(data)
    rows.flush()
    assert stream.getvalue() == '{"a":"\\u009b \\u202e 😀\\n"}\n'


class TestNotice:
    def test_it_shows_after_a_while_and_takes_itself_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with Notice(lambda: "checking rows: 7", after=0.001):
            wait_for(lambda: "checking rows: 7" in stream.getvalue(), "the notice")
        assert stream.getvalue().endswith("\r\x1b[K")

    def test_what_is_quick_needs_no_notice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with Notice(lambda: "never", after=60.0):
            pass
        assert stream.getvalue() == ""

    @pytest.mark.parametrize("stream", [io.StringIO(), None, Gone()])
    def test_elsewhere_it_is_silent(
        self, stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", stream)
        with Notice(lambda: "text", after=0.001):
            time.sleep(0.01)

    def test_it_may_be_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with Notice(lambda: "text", after=0.001, enabled=False):
            time.sleep(0.01)
        assert stream.getvalue() == ""
