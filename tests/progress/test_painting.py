"""A picture is drawn when it is time to, where it fits, and breaks nothing when it cannot be."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from llmflow.progress.display import Bar, Display, Lines, Painter, display_for
from llmflow.progress.view import RunView, Traffic


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Recording:
    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.seconds = seconds
        self.drawn: list[float] = []
        self.last: str | None = None
        self._clock = clock

    def show(self, view: RunView) -> None:
        self.drawn.append(self._clock[0])

    def close(self, last: str | None = None) -> None:
        self.last = last


class Failing(Recording):
    def __init__(self, error: Exception) -> None:
        super().__init__(0.0, [0.0])
        self.error = error
        self.closed = 0

    def show(self, view: RunView) -> None:
        raise self.error

    def close(self, last: str | None = None) -> None:
        self.closed += 1
        raise self.error


def view(**values: Any) -> RunView:
    return RunView(**{"done": 40, "total": 100} | values)


def painter(display: Display, clock: list[float], look: Callable[[], RunView] = view) -> Painter:
    made = Painter(io.StringIO(), look, now=lambda: clock[0], display=lambda _: display)
    assert made.start()
    return made


class TestPainter:
    @given(
        seconds=st.sampled_from([0.0, 0.25, 10.0]),
        ticks=st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=200),
    )
    def test_there_are_never_more_than_four_pictures_a_second(
        self, seconds: float, ticks: list[tuple[float, bool]]
    ) -> None:
        clock = [0.0]
        display = Recording(seconds, clock)
        made = painter(display, clock)
        try:
            for step, news in ticks:
                clock[0] += step
                made.tick(news=news)
        finally:
            made.stop()
        for start in display.drawn:
            assert sum(start <= at < start + 1.0 for at in display.drawn) <= 4

    def test_it_draws_as_often_as_the_display_wants(self) -> None:
        clock = [0.0]
        display = Recording(10.0, clock)
        made = painter(display, clock)
        for step in range(1, 141):
            clock[0] = step / 4
            made.tick()
        made.stop("the end")
        assert display.drawn == [10.0, 20.0, 30.0]
        assert display.last == "the end"

    def test_news_come_before_their_time_but_not_too_often(self) -> None:
        clock = [0.0]
        display = Recording(10.0, clock)
        made = painter(display, clock)
        clock[0] = 1.0
        made.tick(news=True)
        clock[0] = 1.1
        made.tick(news=True)
        assert display.drawn == [1.0]
        assert made.wait(news=True) == pytest.approx(0.15)
        made.stop()

    @pytest.mark.parametrize(
        "error", [BrokenPipeError(), ValueError("I/O on closed file"), RuntimeError("rich")]
    )
    def test_a_display_that_fails_is_given_up(self, error: Exception) -> None:
        display = Failing(error)
        made = painter(display, [1.0])
        made.tick(news=True)
        assert made.active
        made._drawn_at = 0.0
        made.tick(news=True)
        assert not made.active
        assert display.closed == 1
        made.tick(news=True)
        made.stop("last")
        assert display.closed == 1

    def test_a_display_that_cannot_begin_shows_nothing(self) -> None:
        def make(_: IO[str]) -> Display:
            raise OSError("no terminal")

        made = Painter(io.StringIO(), view, now=lambda: 0.0, display=make)
        assert not made.start()
        other = painter(Recording(1.0, [0.0]), [0.0])
        other.stop()

    def test_one_at_a_time_is_shown(self) -> None:
        clock = [0.0]
        first = painter(Recording(1.0, clock), clock)
        second = Painter(io.StringIO(), view, now=lambda: 0.0, display=lambda _: first._display)  # type: ignore[arg-type, return-value]
        assert not second.start()
        first.stop()
        assert second._stream is not None
        third = painter(Recording(1.0, clock), clock)
        third.stop()

    def test_without_a_stream_it_does_nothing(self) -> None:
        made = Painter(None, view, now=lambda: 0.0)
        assert not made.start()
        made.tick()
        made.stop("last")


class Handle:
    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        self.shown.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


class TestNotebook:
    @pytest.fixture
    def handle(self, monkeypatch: pytest.MonkeyPatch) -> Handle:
        handle, module = Handle(), ModuleType("IPython.display")
        module.__dict__["display"] = handle.display
        monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", module)
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        return handle

    def test_one_output_is_updated(
        self, handle: Handle, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = display_for(sys.stderr)
        shown.show(view(note="<b>&"))
        shown.show(view(total=None))
        shown.close("100 calls")
        pages = [each["text/html"] for each in handle.shown]
        assert pages[0] == "<progress></progress>"
        assert pages[1].startswith('<progress max="100" value="40"></progress><pre>40/100 ')
        assert "&lt;b&gt;&amp;" in pages[1]
        assert pages[2].startswith("<progress></progress><pre>40 done")
        assert pages[3] == "<pre>100 calls</pre>"
        assert capsys.readouterr() == ("", "")

    def test_another_stream_of_a_notebook_gets_lines(self, handle: Handle) -> None:
        assert isinstance(display_for(io.StringIO()), Lines)


def test_a_program_that_is_no_notebook_gets_lines() -> None:
    assert isinstance(display_for(sys.stderr), Lines)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Terminal]:
    def sized(width: int) -> Terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        return Terminal()

    return sized


def drawn(stream: Terminal, shown: RunView) -> str:
    bar = display_for(stream)
    assert isinstance(bar, Bar)
    stream.seek(0)
    stream.truncate()
    bar.show(shown)
    text = stream.getvalue()
    bar.close()
    return text


class TestBar:
    def test_it_takes_itself_away(self, terminal: Callable[[int], Terminal]) -> None:
        stream = terminal(100)
        bar = display_for(stream)
        bar.show(view(note="[red]oops"))
        assert "40/100" in stream.getvalue()
        assert "[red]oops" in stream.getvalue()
        bar.close()
        assert stream.getvalue().endswith(("\x1b[2K", "\x1b[1A\x1b[2K"))

    @pytest.mark.parametrize("width", [10, 46, 79])
    def test_a_narrow_terminal_gets_one_line(
        self, width: int, terminal: Callable[[int], Terminal]
    ) -> None:
        assert "\n" not in drawn(terminal(width), view(note="word " * 40))

    @pytest.mark.parametrize("width", [80, 83, 120, 300])
    def test_a_wide_terminal_gets_two(
        self, width: int, terminal: Callable[[int], Terminal]
    ) -> None:
        text = drawn(terminal(width), view(note="word " * 80, failed=7))
        first, second = text.split("\n")
        assert "40/100" in first
        assert "0 in flight, 7 failed" in second

    def test_80_columns_show_what_binds_cost_and_time_left(
        self, terminal: Callable[[int], Terminal]
    ) -> None:
        traffic = Traffic(in_flight=900, waiting=4_000, quota=1_000.0, binds="rpm is the limit")
        shown = view(
            done=48_000, total=600_000, requests=1_000.0, seconds_left=3_661.0, failed=3,
            replayed=1_000, cost=12.5, input_tokens=12_000_000, traffic=traffic,
        )  # fmt: skip
        first, second = Text.from_ansi(drawn(terminal(80), shown)).plain.split("\n")
        assert "48,000/600,000 1,000/s of 1,000/s (rpm), 1 h 1 min left" in first
        assert second.startswith("rpm is the limit, $12.50, 900 in flight")

    def test_a_rate_is_never_shown_above_its_limit(self) -> None:
        # What a bucket has saved up goes out faster for a moment.
        shown = view(requests=14.2, traffic=Traffic(quota=10.0))
        assert shown.line().startswith("10/s of 10/s (rpm)")

    def test_big_rates_are_written_out(self) -> None:
        assert view(rate=1_234.5).line().startswith("1,234/s")
        assert "e+" not in view(requests=99_999.0, traffic=Traffic(quota=100_000.0)).line()

    @pytest.mark.parametrize("width", [30, 46, 83, 120])
    def test_no_line_is_longer_than_the_terminal(
        self, width: int, terminal: Callable[[int], Terminal]
    ) -> None:
        text = drawn(terminal(width), view(note="word " * 80, failed=7, total=None))
        assert max(len(Text.from_ansi(line).plain.rstrip()) for line in text.split("\n")) < width

    def test_more_than_the_total_is_no_error(self, terminal: Callable[[int], Terminal]) -> None:
        assert "12/10" in drawn(terminal(100), view(done=12, total=10))
        assert "0/0" in drawn(terminal(100), view(done=0, total=0))

    def test_what_the_program_prints_to_a_file_stays_there(
        self, terminal: Callable[[int], Terminal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = io.StringIO()
        monkeypatch.setattr(sys, "stdout", file)
        stream = terminal(100)
        bar = Bar(stream)
        print("data")
        bar.close()
        assert file.getvalue() == "data\n"
        assert "data" not in stream.getvalue()

    def test_the_last_line_stays(self, terminal: Callable[[int], Terminal]) -> None:
        stream = terminal(100)
        bar = Bar(stream)
        bar.show(view())
        bar.close("100 calls")
        assert stream.getvalue().endswith("\x1b[2K100 calls\n")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_for(Terminal()), Lines)


class TestWords:
    def test_everything_is_told(self) -> None:
        traffic = Traffic(
            in_flight=82,
            waiting=40,
            requests=1000,
            rejected=2,
            quota=10.0,
            paused_for=3.2,
            binds="rpm is the limit",
        )
        shown = view(
            requests=8.24,
            seconds_left=200.0,
            failed=3,
            replayed=10,
            cached=5,
            shared=4,
            input_tokens=1_234_000,
            output_tokens=80_000,
            cost=0.41,
            traffic=traffic,
        )
        first, second = shown.lines()
        assert first == ("8.24/s of 10/s (rpm), 3 min 20 s left, paused 3 s")
        assert second == (
            "rpm is the limit, $0.41, 82 in flight, 40 waiting, 2 x 429, 3 failed"
            ", 10 from the journal, 5 from the cache, 4 shared, tokens 1.23M in, 80k out"
        )
        assert shown.log_line() == (
            "40 of 100 done, 8.24/s of 10/s (rpm), 82 in flight, 3 min 20 s left, paused 3 s, "
            "2 x 429, 3 failed, 10 from the journal, 5 from the cache, 4 shared, $0.41, "
            "rpm is the limit, tokens 1.23M in, 80k out"
        )

    def test_while_it_stops_only_that_matters(self) -> None:
        shown = view(stopping=True, traffic=Traffic(in_flight=3), failed=2)
        assert shown.line() == "stopping: 3 answers on their way; Ctrl-C drops them"
        assert shown.lines()[0] == shown.line()
        assert shown.log_line().startswith("40 of 100 done, stopping")
