"""Rows written: whole or not there, nothing lost, failures beside them."""

from __future__ import annotations

import datetime as dt
import decimal
import errno
import io
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import ConfigurationError, MissingExtraError, RateLimitError
from llmflow.rows import RowLayout, failed_path, open_output, open_rows, output_files

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
names = texts.filter(lambda name: name.strip() != "")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Write rows to a file and return what is read from it."""
    with open_output(path, **options) as out:
        for row in rows:
            out.write(row)
    return list(open_rows(path))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestRoundTrip:
    @given(st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=5))
    def test_json_lines_come_back_as_they_were(self, rows: list[dict[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert write(Path(folder, "a.jsonl"), rows) == rows

    @pytest.mark.parametrize("suffix", [".csv", ".tsv"])
    @given(data=st.data())
    def test_tables_of_text_come_back_as_they_were(self, suffix: str, data: st.DataObject) -> None:
        header = data.draw(st.lists(names, min_size=1, max_size=4, unique=True))
        row = st.fixed_dictionaries(dict.fromkeys(header, texts))
        rows = data.draw(st.lists(row, min_size=1, max_size=5))
        with tempfile.TemporaryDirectory() as folder:
            assert write(Path(folder, f"a{suffix}"), rows) == rows

    def test_parquet_comes_back_with_its_types(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        rows = [
            {
                "n": 1,
                "x": 1,
                "yes": True,
                "t": "a",
                "mix": 1,
                "tags": ["a"],
                "big": 2**70,
                "no": None,
            },
            {
                "n": 2,
                "x": 0.5,
                "yes": None,
                "t": "b",
                "mix": "b",
                "tags": None,
                "big": 1,
                "late": "c",
            },
        ]
        assert write(tmp_path / "a.parquet", rows, fields=["t", "unused"]) == [
            {
                "t": "a",
                "unused": None,
                "n": 1,
                "x": 1.0,
                "yes": True,
                "mix": "1",
                "tags": '["a"]',
                "big": str(2**70),
                "no": None,
                "late": None,
            },
            {
                "t": "b",
                "unused": None,
                "n": 2,
                "x": 0.5,
                "yes": None,
                "mix": "b",
                "tags": None,
                "big": "1",
                "no": None,
                "late": "c",
            },
        ]
        assert listing(tmp_path) == ["a.parquet"]

    def test_parquet_is_made_batch_by_batch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("pyarrow")
        monkeypatch.setattr("llmflow.rows.parquet._WRITE_ROWS", 2)
        rows = [{"n": n} for n in range(5)]
        assert write(tmp_path / "a.parquet", rows) == rows


class TestValues:
    def test_a_lone_surrogate_is_replaced_and_two_halves_are_joined(self, tmp_path: Path) -> None:
        rows = [{"a": "cut \ud83d", "\udc00": ["\ud83d\ude00"]}]
        assert write(tmp_path / "a.jsonl", rows) == [{"a": "cut \ufffd", "\ufffd": ["😀"]}]
        assert write(tmp_path / "a.csv", [{"a": "cut \ud83d"}]) == [{"a": "cut \ufffd"}]

    def test_values_that_json_does_not_have_become_the_nearest(self, tmp_path: Path) -> None:
        row = {
            "date": dt.date(2026, 1, 2),
            "price": decimal.Decimal("1.50"),
            "text": b"caf\xc3\xa9",
            "raw": b"\xff\xfe",
            "set": {"b", "a"},
            "nan": float("nan"),
        }
        expected = {
            "date": "2026-01-02",
            "price": "1.50",
            "text": "café",
            "raw": "//4=",
            "set": ["a", "b"],
            "nan": None,
        }
        assert write(tmp_path / "a.jsonl", [row]) == [expected]
        # The same by the slow way, which an integer above 64 bits forces.
        lines = tmp_path / "b.jsonl"
        write(lines, [{**row, "big": 2**70, "nested": {1: (1, None)}}])
        assert str(2**70) in lines.read_text(encoding="utf-8")
        assert orjson.loads(lines.read_bytes()).items() >= expected.items()

    def test_cells_hold_text_numbers_and_json(self, tmp_path: Path) -> None:
        row = {"t": "=1+1", "n": 3, "x": 0.5, "yes": True, "no": None, "l": [1], "d": {"a": None}}
        assert write(tmp_path / "a.csv", [row]) == [
            {
                "t": "=1+1",
                "n": "3",
                "x": "0.5",
                "yes": "true",
                "no": "",
                "l": "[1]",
                "d": '{"a":null}',
            }
        ]

    def test_a_cell_may_hold_a_date(self, tmp_path: Path) -> None:
        rows = write(tmp_path / "a.csv", [{"a": dt.date(2026, 1, 2)}])
        assert rows == [{"a": "2026-01-02"}]

    def test_fields_that_come_later_get_a_column(self, tmp_path: Path) -> None:
        rows = [{"a": "1"}, {"b": "2\n3", "a": "4"}, {"c": "5"}]
        path = tmp_path / "a.csv"
        assert write(path, rows, fields=["z"]) == [
            {"z": "", "a": "1", "b": "", "c": ""},
            {"z": "", "a": "4", "b": "2\n3", "c": ""},
            {"z": "", "a": "", "b": "", "c": "5"},
        ]
        assert listing(tmp_path) == ["a.csv"]

    def test_a_table_without_rows_has_its_header(self, tmp_path: Path) -> None:
        with open_output(tmp_path / "a.csv", fields=["a", "b"]):
            pass
        with open_output(tmp_path / "b.csv"):
            pass
        assert (tmp_path / "a.csv").read_bytes() == b"a,b\r\n"
        assert (tmp_path / "b.csv").read_bytes() == b""


class TestWholeOrNotThere:
    def test_rows_wait_under_the_partial_name_until_commit(self, tmp_path: Path) -> None:
        out = open_output(tmp_path / "summaries.jsonl")
        out.write({"a": 1})
        out.flush()
        assert out.partial_path == tmp_path / "summaries.partial.jsonl"
        assert (tmp_path / "summaries.partial.jsonl").read_bytes() == b'{"a":1}\n'
        assert listing(tmp_path) == ["summaries.partial.jsonl"]
        assert repr(out).endswith("summaries.jsonl: 1 written, 0 failed>")
        out.commit()
        out.commit()
        out.abort()
        assert listing(tmp_path) == ["summaries.jsonl"]

    def test_an_older_output_stays_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("old")
        path.chmod(0o640)
        with open_output(path) as out:
            out.write({"a": 1})
            assert path.read_text() == "old"
        assert path.read_bytes() == b'{"a":1}\n'
        assert path.stat().st_mode & 0o777 == 0o640

    def test_an_exception_keeps_the_partial_files(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), open_output(tmp_path / "a.jsonl") as out:  # noqa: PT012
            out.write({"a": 1})
            out.fail({"b": 1})
            raise KeyError
        assert listing(tmp_path) == ["a.failed.partial.jsonl", "a.partial.jsonl"]
        assert (tmp_path / "a.partial.jsonl").read_bytes() == b'{"a":1}\n'

    def test_abort_can_remove_them(self, tmp_path: Path) -> None:
        out = open_output(tmp_path / "a.jsonl")
        out.write({"a": 1})
        out.fail({"a": 1})
        out.abort(keep=False)
        out.abort()
        assert listing(tmp_path) == []

    def test_the_partial_file_of_a_dead_run_is_set_aside(self, tmp_path: Path) -> None:
        for name in ("a.partial-1.jsonl", "a.partial.jsonl"):
            (tmp_path / name).write_text(name)
        assert write(tmp_path / "a.jsonl", [{"a": 1}]) == [{"a": 1}]
        assert listing(tmp_path) == ["a.jsonl", "a.partial-1.jsonl", "a.partial-2.jsonl"]
        assert (tmp_path / "a.partial-2.jsonl").read_text() == "a.partial.jsonl"

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
        write(tmp_path / "link.jsonl", [{"a": 1}])
        assert (tmp_path / "link.jsonl").is_symlink()
        assert (tmp_path / "real.jsonl").read_bytes() == b'{"a":1}\n'

    def test_rows_reach_the_file_after_the_flush_interval(self, tmp_path: Path) -> None:
        time = [0.0]
        with open_output(tmp_path / "a.jsonl", flush_interval=2.0, now=lambda: time[0]) as out:
            assert out.partial_path
            out.write({"a": 1})
            assert out.partial_path.stat().st_size == 0
            time[0] = 2.0
            out.write({"a": 2})
            assert out.partial_path.stat().st_size == 16

    def test_rows_reach_the_file_with_a_full_block(self, tmp_path: Path) -> None:
        with open_output(tmp_path / "a.jsonl", now=lambda: 0.0) as out:
            assert out.partial_path
            out.write({"a": "x" * 70_000})
            assert out.partial_path.stat().st_size > 70_000


class TestFailures:
    def test_lie_beside_the_output_if_there_are_any(self, tmp_path: Path) -> None:
        with open_output(tmp_path / "a.csv") as out:
            out.write({"a": 1})
            assert not (tmp_path / "a.failed.jsonl").exists()
            out.fail({"a": 2})
            assert (out.written, out.failed) == (1, 1)
        assert (tmp_path / "a.failed.jsonl").read_bytes() == b'{"a":2}\n'
        assert listing(tmp_path) == ["a.csv", "a.failed.jsonl"]

    def test_of_an_earlier_run_are_removed_by_a_run_without_any(self, tmp_path: Path) -> None:
        stale = tmp_path / "a.failed.jsonl"
        stale.write_text("{}")
        out = open_output(tmp_path / "a.jsonl")
        assert stale.exists()
        out.commit()
        assert not stale.exists()

    def test_that_cannot_be_removed_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.failed.jsonl").mkdir()
        with pytest.raises(ConfigurationError, match=r"a\.failed\.jsonl cannot be written"):
            open_output(tmp_path / "a.jsonl").commit()

    def test_path_is_json_lines_beside_the_output(self) -> None:
        assert failed_path(Path("out/summaries.parquet")) == Path("out/summaries.failed.jsonl")


class TestStreams:
    def test_standard_output_gets_each_row_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        stream = io.BytesIO()
        with open_output("-", stdout=stream) as out:
            out.write({"a": 1})
            assert stream.getvalue() == b'{"a":1}\n'
            assert out.partial_path is None
        assert not stream.closed
        assert listing(tmp_path) == []

    def test_its_failures_go_to_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with open_output("-", stdout=io.BytesIO()) as out:
            out.fail({"a": 1})
        assert listing(tmp_path) == ["llmflow.failed.jsonl"]

    def test_it_is_the_processs_own_by_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        stream = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdout", stream)
        with open_output("-") as out:
            out.write({"a": 1})
        assert stream.buffer.getvalue() == b'{"a":1}\n'  # type: ignore[attr-defined]

    def test_a_reader_that_has_gone_is_named(self) -> None:
        class Gone(io.RawIOBase):
            def write(self, data: Any) -> int:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        out = open_output("-", stdout=Gone())  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"<stdout> .*: its reader has closed it"):
            out.write({"a": 1})

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_is_written_to_and_not_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
        reader.start()
        with open_output(pipe) as out:
            out.write({"a": 1})
        reader.join(10)
        assert got == [b'{"a":1}\n']
        assert pipe.is_fifo()


class TestWhatCannotWork:
    def test_is_said_when_the_output_is_opened(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"there is no folder .*; make it"):
            open_output(tmp_path / "nowhere" / "a.jsonl")
        with pytest.raises(ConfigurationError, match="is a folder; name a file in it"):
            open_output(tmp_path)
        with pytest.raises(ConfigurationError, match=r"unknown format; writable are \.jsonl"):
            open_output(tmp_path / "a.xlsx")
        (tmp_path / "a.partial.jsonl").mkdir()
        with pytest.raises(ConfigurationError, match="cannot be written: is a directory"):
            open_output(tmp_path / "a.jsonl")

    def test_two_runs_do_not_write_one_file(self, tmp_path: Path) -> None:
        pytest.importorskip("fcntl")
        with (
            open_output(tmp_path / "a.jsonl"),
            pytest.raises(ConfigurationError, match="another run is writing this file"),
        ):
            open_output(tmp_path / "a.jsonl")

    def test_the_input_is_not_written_over(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text("{}")
        failed = tmp_path / "b.failed.jsonl"
        failed.write_text("{}")
        with pytest.raises(ConfigurationError, match="would be written over; name another output"):
            open_output(path, inputs=[path])
        with pytest.raises(ConfigurationError, match="would be written over"):
            open_output(tmp_path / "b.csv", inputs=["-", failed])

    @pytest.mark.parametrize("length", [249, 300])
    def test_a_name_that_is_too_long_is_told(self, tmp_path: Path, length: int) -> None:
        source = tmp_path / "a.jsonl"
        source.write_text("{}")
        with pytest.raises(ConfigurationError, match="cannot be written: file name too long"):
            open_output(tmp_path / f"{'x' * length}.jsonl", inputs=[source])

    def test_parquet_without_pyarrow_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match="pip install"):
            open_output(tmp_path / "a.parquet")

    def test_a_full_disk_is_named_and_what_was_written_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        out = open_output(tmp_path / "a.jsonl")
        out.write({"a": 1})
        monkeypatch.setattr(output_files.os, "fsync", full)
        with pytest.raises(ConfigurationError, match="no space left on device"):
            out.commit()
        assert (tmp_path / "a.partial.jsonl").read_bytes() == b'{"a":1}\n'

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
    def test_a_full_device_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        out = open_output("/dev/full")
        with pytest.raises(ConfigurationError, match="/dev/full cannot be written: no space left"):
            out.write({"a": 1})
        out.abort()

    def test_a_second_error_is_a_note_on_the_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full() -> None:
            raise ConfigurationError("disk full")

        with pytest.raises(KeyError) as caught, open_output(tmp_path / "a.jsonl") as out:  # noqa: PT012
            monkeypatch.setattr(out._out, "flush", full)
            raise KeyError
        assert caught.value.__notes__ == ["disk full"]

    @pytest.mark.parametrize("step", ["finish", "replace"])
    def test_a_failure_at_the_end_says_where_the_rows_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        out = open_output(tmp_path / "a.csv")
        out.write({"a": 1})
        if step == "finish":
            out.write({"b": 1})
            monkeypatch.setattr(Path, "unlink", refuse)
        else:
            monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(ConfigurationError, match=r"the rows are in .*a\.partial\.csv"):
            out.commit()

    def test_a_file_system_without_locks_is_no_obstacle(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fcntl = pytest.importorskip("fcntl")

        def no_locks(*args: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        assert write(tmp_path / "a.jsonl", [{"a": 1}]) == [{"a": 1}]

    def test_another_failure_of_the_lock_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fcntl = pytest.importorskip("fcntl")

        def broken(*args: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(fcntl, "flock", broken)
        with pytest.raises(ConfigurationError, match="cannot be written: input/output error"):
            open_output(tmp_path / "a.jsonl")


class TestRecords:
    def test_an_answer_keeps_the_rows_fields(self) -> None:
        assert RowLayout().answer({"id": 7, "text": "a"}, {"response": "b"}, 3) == {
            "index": 3,
            "id": 7,
            "text": "a",
            "response": "b",
        }

    def test_fields_with_names_of_ours_are_kept_beside(self) -> None:
        row = {"response": "old", "index": "A", "input_response": "older"}
        assert RowLayout().answer(row, {"response": "new"}, 0) == {
            "index": 0,
            "input_index": "A",
            "response": "new",
            "input_response": "older",
            "input_input_response": "old",
        }

    def test_a_failure_holds_the_reason_without_secrets(self) -> None:
        error = RateLimitError(
            "slow down sk-abcdef123456", status=429, attempts=3, request_id="req_1"
        )
        assert RowLayout().failure({"text": "a", "error": "old"}, error, 5) == {
            "index": 5,
            "text": "a",
            "input_error": "old",
            "error": {
                "type": "RateLimitError",
                "message": "slow down *** (HTTP 429, 3 attempts)",
                "status": 429,
                "attempts": 3,
                "request_id": "req_1",
            },
        }

    def test_a_failure_of_any_kind_has_a_reason(self) -> None:
        assert RowLayout().failure({}, KeyError("x"), 0)["error"] == {
            "type": "KeyError",
            "message": "'x'",
            "status": None,
            "attempts": None,
            "request_id": None,
        }
