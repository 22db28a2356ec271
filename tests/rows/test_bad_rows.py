"""A row that cannot be read keeps its place, and the rows after it are read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import InputError
from llmflow.rows import BadRow, PromptTemplate, open_rows
from tests.rows.test_readers import put


def kept(path: Path | str, **options: Any) -> list[Any]:
    """Return the rows, and for a bad one what its error says."""
    rows = list(open_rows(path, bad_rows="keep", **options))
    return [str(row.error) if isinstance(row, BadRow) else row for row in rows]


@pytest.mark.parametrize(
    "line",
    [b"{broken", b"[1]", b"17", b"null", b'{"a": "\xff"}', b"{", b'{"a": 1', b"\x00\x01", b"\xff"],
)
def test_a_broken_line_of_json_leaves_its_neighbours(tmp_path: Path, line: bytes) -> None:
    content = b'{"a":1}\n\n' + line + b'\n{"a":2}\n'
    first, bad, last = kept(put(tmp_path / "a.jsonl", content))
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert "a.jsonl, line 3: " in bad
    assert kept("-", stdin=io.BytesIO(content))[2] == {"a": 2}
    assert kept(put(tmp_path / "b.jsonl.gz", gzip.compress(content)))[2] == {"a": 2}


def test_a_line_that_is_no_utf8_leaves_its_neighbours(tmp_path: Path) -> None:
    rows = kept(put(tmp_path / "a.txt", b"one\ncaf\xe9\nthree\n"))
    assert [rows[0], rows[2]] == [{"text": "one"}, {"text": "three"}]
    assert "line 2: the text is not UTF-8" in rows[1]


def test_a_file_of_a_folder_leaves_its_neighbours(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "one")
    put(tmp_path / "b.txt", b"two\ncaf\xe9")
    put(tmp_path / "c.txt", "three")
    rows = list(open_rows(tmp_path, bad_rows="keep"))
    assert isinstance(rows[1], BadRow)
    assert "b.txt, line 2: the text is not UTF-8" in str(rows[1].error)
    assert rows[1] == {"file": "b.txt"}
    assert [row["text"] for row in (rows[0], rows[2])] == ["one", "three"]


class TestCsv:
    @pytest.mark.parametrize(
        ("record", "said"),
        [
            (b"1,2,3", "line 3: 3 columns where the header names 2"),
            (b"caf\xe9,2", "line 3: the text is not UTF-8"),
            (b'"a"b,2', "record at line 3: ',' expected after '\"'"),
        ],
    )
    def test_a_bad_record_leaves_its_neighbours(
        self, tmp_path: Path, record: bytes, said: str
    ) -> None:
        content = b"a,b\nx,1\n" + record + b"\ny,2\nz,3\n"
        for rows in (
            kept(put(tmp_path / "a.csv", content)),
            kept("-", stdin=io.BytesIO(content), format="csv"),
        ):
            assert rows[0] == {"a": "x", "b": "1"}
            assert said in rows[1]
            assert rows[2:] == [{"a": "y", "b": "2"}, {"a": "z", "b": "3"}]

    def test_a_quote_that_is_never_closed_takes_one_row_with_it(self, tmp_path: Path) -> None:
        lines = ["a,b", *(f"row {n},{n}" for n in range(100))]
        lines[50] = 'row 49,"49'
        rows = kept(put(tmp_path / "a.csv", "\n".join(lines)))
        assert len(rows) == 100
        assert "record at line 51" in rows[49]
        assert "a quote is opened and never closed (it runs on to line 101)" in rows[49]
        del rows[49]
        assert rows == [{"a": f"row {n}", "b": str(n)} for n in range(100) if n != 49]

    def test_two_open_quotes_take_their_own_rows_alone(self, tmp_path: Path) -> None:
        lines = ["a,b", *(f"row {n},{n}" for n in range(30))]
        lines[11] = lines[21] = '"open,1'
        content = "\n".join(lines)
        for rows in (
            kept(put(tmp_path / "a.csv", content)),
            kept("-", stdin=io.BytesIO(content.encode()), format="csv"),
        ):
            assert [n for n, row in enumerate(rows) if isinstance(row, str)] == [10, 20]
            assert len(rows) == 30

    def test_many_open_quotes_do_not_open_the_file_for_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(tmp_path / "a.csv", "a,b\n" + '"open,1\nfine,2\n' * 500)
        opened = 0

        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal opened
            opened += 1
            return real_open(*arguments, **named)

        real_open = Path.open
        monkeypatch.setattr(Path, "open", counted)
        rows = kept(path)
        assert len(rows) == 1000
        assert rows[1::2] == [{"a": "fine", "b": "2"}] * 500
        assert opened < 10

    def test_a_broken_text_after_a_broken_text_leaves_the_rows_after_it(
        self, tmp_path: Path
    ) -> None:
        content = 'a,b\n,"\n\n,"x""y,1\n"""z;\n"q",2\n'
        assert kept(put(tmp_path / "a.csv", content))[2:] == [{"a": "q", "b": "2"}]

    def test_lines_inside_a_broken_quoted_text_are_no_rows(self, tmp_path: Path) -> None:
        content = 'a,b\n"first line\nmore "of" it\nend",1\nx,2\n'
        rows = kept(put(tmp_path / "a.csv", content))
        assert not any(isinstance(row, dict) and "of" in str(row) for row in rows)
        assert rows[-1] == {"a": "x", "b": "2"}

    def test_of_one_column_no_line_of_a_broken_text_is_asked(self, tmp_path: Path) -> None:
        rows = kept(put(tmp_path / "a.csv", 'text\ngood\n"open\nsecret\n'))
        assert rows[0] == {"text": "good"}
        assert len(rows) == 2
        assert "(it runs on to line 4)" in rows[1]

    def test_many_bad_bytes_are_found_each(self, tmp_path: Path) -> None:
        lines = [b"a,b", *(b"\xff,1" if n % 1000 == 7 else b"x,1" for n in range(20_000))]
        rows = kept(put(tmp_path / "a.csv", b"\n".join(lines)))
        assert len(rows) == 20_000
        assert [n for n, row in enumerate(rows) if isinstance(row, str)] == [
            *range(7, 20_000, 1000)
        ]
        assert "line 9: " in rows[7]


def test_what_is_known_of_a_bad_row_is_where_it_is_and_its_begin(tmp_path: Path) -> None:
    (_, bad) = open_rows(
        put(tmp_path / "a.jsonl", b'{"a": 1}\n{"a": "' + b"x" * 5000 + b"\n"), bad_rows="keep"
    )
    assert bad["line"] == 2
    assert bad["raw"].startswith('{"a": "xxx')
    assert len(bad["raw"]) == 1_000


def test_a_bad_row_is_refused_by_every_template(tmp_path: Path) -> None:
    (_, bad) = open_rows(put(tmp_path / "a.jsonl", '{"raw": 1}\n{\n'), bad_rows="keep")
    with pytest.raises(InputError, match="line 2"):
        PromptTemplate("{raw}").render(bad)


def test_one_json_value_over_all_lines_is_no_file_of_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '[\n"one",\n"two"\n]\n')
    with pytest.raises(InputError, match="one JSON value over several lines"):
        kept(path)


def test_a_file_that_is_not_whole_is_an_error_after_its_rows(tmp_path: Path) -> None:
    content = gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(50_000)))
    with pytest.raises(InputError, match="is not a whole gzip file"):
        kept(put(tmp_path / "a.jsonl.gz", content[: len(content) // 2]))


def test_by_default_the_first_one_is_raised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        list(open_rows(put(tmp_path / "a.jsonl", '{"a": 1}\n{\n')))
