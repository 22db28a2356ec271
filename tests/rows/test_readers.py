"""Rows read from files, folders, pipes and standard input."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import InputError, MissingExtraError
from llmflow.rows import open_rows


def read(path: Path | str, **options: Any) -> list[dict[str, Any]]:
    return list(open_rows(path, **options))


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestJsonLines:
    def test_objects_and_bare_texts_become_rows(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.jsonl", '{"text": "a", "n": 1}\n"b"\n')
        assert read(path) == [{"text": "a", "n": 1}, {"text": "b"}]
        assert read(path, text_field="body")[1] == {"body": "b"}

    def test_blank_lines_a_bom_and_crlf_are_tolerated(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.ndjson", b'\xef\xbb\xbf{"a":1}\r\n\r\n  \n{"a":2}')
        assert read(path) == [{"a": 1}, {"a": 2}]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (b"{broken", "line 3: not valid JSON"),
            (b"[1]", "line 3: an array; each line must be a JSON object"),
            (b"17", "line 3: a bare value"),
            (b"null", "line 3: null"),
            (b'{"a": "\xff"}', "line 3: the text is not UTF-8"),
            (b"{", "line 3: one JSON value over several lines"),
            (b"{" + b"x" * 500, "…"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, line: bytes, said: str) -> None:
        path = put(tmp_path / "a.jsonl", b'{"a":1}\n\n' + line + b"\n")
        rows = iter(open_rows(path))
        assert next(rows) == {"a": 1}
        with pytest.raises(InputError) as caught:
            next(rows)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_utf16_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.jsonl", '{"a":1}\n'.encode("utf-16"))
        with pytest.raises(InputError, match="Save it as UTF-8"):
            read(path)


class TestTextLines:
    def test_each_line_with_content_is_a_row(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\n two \nthree")
        assert read(path) == [{"text": "one"}, {"text": " two "}, {"text": "three"}]

    def test_a_line_that_is_no_utf8_is_named(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.txt", b"one\n\ncaf\xe9\n")
        with pytest.raises(InputError, match="line 3: the text is not UTF-8"):
            read(path)


class TestCsv:
    def test_the_header_names_the_fields(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.csv", b'\xef\xbb\xbfid,text\r\n1,"a, b"\r\n\r\n2,"c\nd"\r\n')
        assert open_rows(path).fields == ("id", "text")
        assert read(path) == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "c\nd"}]

    def test_tabs_separate_in_tsv(self, tmp_path: Path) -> None:
        assert read(put(tmp_path / "a.tsv", "a\tb\n1\t2,3\n")) == [{"a": "1", "b": "2,3"}]

    def test_a_short_record_has_none_in_its_last_columns(self, tmp_path: Path) -> None:
        assert read(put(tmp_path / "a.csv", "a,b\n1\n")) == [{"a": "1", "b": None}]

    def test_documents_above_the_csv_modules_default_limit_are_read(self, tmp_path: Path) -> None:
        long = "x" * 300_000
        assert read(put(tmp_path / "a.csv", f"text\n{long}\n")) == [{"text": long}]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"a,b\n1,2\n1,2,3\n", "line 3: 3 columns where the header names 2"),
            (b'a,b\n1,2\n"1,2\n3,4\n', "line 3: unexpected end of data: a quote is opened"),
            (b"a,b\n1,2\ncaf\xe9,2\n", "line 3: the text is not UTF-8"),
            (b"a,b\n1,2\n\xff\n", "line 3: the text is not UTF-8"),
            (b"a,a\n1,2\n", "the header names 'a' twice"),
            (b"", "is empty"),
            (b"\n\n", "is empty"),
            (b"a,b\n", "has no rows"),
        ],
    )
    def test_a_wrong_record_is_named(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = put(tmp_path / "a.csv", content)
        with pytest.raises(InputError) as caught:
            read(path)
        assert said in str(caught.value)


class TestFolders:
    def test_each_text_file_is_a_row_in_the_order_of_names(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        put(tmp_path / "c.txt", b"\xef\xbb\xbfthird\r\nline\n\n")
        put(tmp_path / "b" / "x.md", "second")
        put(tmp_path / "a.TXT", "first")
        put(tmp_path / "picture.png", b"\x00")
        put(tmp_path / ".hidden.txt", "no")
        assert read(tmp_path) == [
            {"file": "a.TXT", "text": "first"},
            {"file": "b/x.md", "text": "second"},
            {"file": "c.txt", "text": "third\nline"},
        ]
        assert open_rows(tmp_path).fields == ("file", "text")

    def test_a_folder_without_texts_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no text files"):
            open_rows(tmp_path)

    def test_a_file_that_is_no_utf8_is_named_with_its_line(self, tmp_path: Path) -> None:
        put(tmp_path / "a.txt", b"one\ncaf\xe9")
        with pytest.raises(InputError, match=r"a\.txt, line 2: the text is not UTF-8"):
            read(tmp_path)


class TestStandardInput:
    @pytest.mark.parametrize(
        ("content", "rows"),
        [
            (b'\n{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
            (b"\xef\xbb\xbfone\n\ntwo\n", [{"text": "one"}, {"text": "two"}]),
            (b'\xef\xbb\xbf{"a": 1}', [{"a": 1}]),
        ],
    )
    def test_the_first_line_with_content_tells_the_format(
        self, content: bytes, rows: list[dict[str, Any]]
    ) -> None:
        assert read("-", stdin=io.BytesIO(content)) == rows

    def test_is_the_processs_own_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n")))
        assert read("-") == [{"text": "one"}]

    def test_can_be_looked_at_and_is_still_whole(self) -> None:
        source = open_rows("-", stdin=io.BytesIO(b"one\ntwo\nthree\n"))
        assert source.head() == [{"text": "one"}]
        assert source.head(2) == [{"text": "one"}, {"text": "two"}]
        assert source.head(1) == [{"text": "one"}]
        assert [row["text"] for row in source] == ["one", "two", "three"]

    def test_can_be_read_once(self) -> None:
        source = open_rows("-", stdin=io.BytesIO(b"one\n"))
        assert list(source) == [{"text": "one"}]
        with pytest.raises(InputError, match="can be read only once"):
            list(source)

    def test_without_a_line_is_an_error_already_at_the_first_look(self) -> None:
        with pytest.raises(InputError, match="<stdin> has no rows"):
            open_rows("-", stdin=io.BytesIO(b"\n \n")).head()

    def test_head_keeps_to_the_limit(self) -> None:
        source = open_rows("-", stdin=io.BytesIO(b"one\ntwo\n"), limit=1)
        assert source.head(5) == [{"text": "one"}]
        assert list(source) == [{"text": "one"}]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe_is_read_like_it(self, tmp_path: Path) -> None:
        pipe = tmp_path / "63"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(b'{"a":1}\n',))
        writer.start()
        assert read(pipe) == [{"a": 1}]
        writer.join(10)


class TestParquet:
    def test_rows_come_batch_by_batch_with_nested_values(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        rows = [{"n": n, "text": f"t{n}", "tags": [{"a": n}]} for n in range(600)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        source = open_rows(tmp_path / "a.parquet")
        assert source.fields == ("n", "text", "tags")
        assert list(source) == rows

    def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        with pytest.raises(InputError, match=r"a\.parquet is not a readable Parquet file"):
            open_rows(put(tmp_path / "a.parquet", "no parquet at all"))

    def test_without_pyarrow_the_error_names_the_extra(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'llmflow\[parquet\]'"):
            open_rows(put(tmp_path / "a.parquet", ""))


class TestAnySource:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
    def test_may_be_packed(self, tmp_path: Path, name: str) -> None:
        content = {"a.jsonl": '{"text": "x"}', "a.csv": "text\nx", "a.txt": "x"}[name]
        path = put(tmp_path / f"{name}.gz", gzip.compress(content.encode()))
        assert read(path) == [{"text": "x"}]

    @pytest.mark.parametrize("cut", [slice(0, 30), slice(5, None)])
    def test_that_is_no_whole_gzip_file_is_refused(self, tmp_path: Path, cut: slice) -> None:
        content = gzip.compress(b'{"text": "some words to pack"}\n')
        with pytest.raises(InputError, match="is not a whole gzip file"):
            read(put(tmp_path / "a.jsonl.gz", content[cut]))

    def test_that_is_missing_is_refused_with_the_nearest_name(self, tmp_path: Path) -> None:
        put(tmp_path / "texts.jsonl", "{}")
        with pytest.raises(InputError, match=r"no such file; did you mean 'texts\.jsonl'"):
            open_rows(tmp_path / "text.jsonl")
        with pytest.raises(InputError, match=r"no such file$"):
            open_rows(tmp_path / "nowhere" / "text.jsonl")
        with pytest.raises(InputError, match=r"no such file$"):
            open_rows(tmp_path / "texts.jsonl" / "inside")

    @pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.parquet.gz"])
    def test_of_an_unknown_format_is_refused_with_the_known_ones(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(InputError, match=r"readable are \.jsonl, \.ndjson, \.csv"):
            open_rows(put(tmp_path / name, "x"))

    def test_of_json_gets_the_command_that_rewrites_it(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="jq -c"):
            open_rows(put(tmp_path / "a.json", "[]"))

    def test_that_may_not_be_read_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(tmp_path / "a.jsonl", "{}")

        def refuse(self: Path, *args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(InputError, match="cannot be read: permission denied"):
            open_rows(path)

    def test_that_fails_while_it_is_read_says_so(self) -> None:
        class Failing(io.BytesIO):
            def __next__(self) -> bytes:
                raise OSError(5, "Input/output error")

        with pytest.raises(InputError, match="<stdin> cannot be read: Input/output error"):
            read("-", stdin=Failing())

    def test_that_is_gone_when_it_is_read_says_so(self, tmp_path: Path) -> None:
        source = open_rows(put(tmp_path / "a.jsonl", "{}"))
        (tmp_path / "a.jsonl").unlink()
        with pytest.raises(InputError, match="there is no such file"):
            list(source)

    @pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
    def test_without_rows_is_refused(self, tmp_path: Path, name: str) -> None:
        source = open_rows(put(tmp_path / name, "\n\n"))
        with pytest.raises(InputError, match="has no rows"):
            source.head()
        with pytest.raises(InputError, match="has no rows"):
            list(source)

    def test_can_be_looked_at_and_read_twice(self, tmp_path: Path) -> None:
        source = open_rows(put(tmp_path / "a.jsonl", '{"a":1}\n\n{"a":2}\n'))
        assert source.head() == [{"a": 1}]
        assert list(source) == list(source) == [{"a": 1}, {"a": 2}]

    def test_stops_at_the_limit_before_a_broken_line(self, tmp_path: Path) -> None:
        source = open_rows(put(tmp_path / "a.jsonl", '{"a":1}\nbroken\n'), limit=1)
        assert list(source) == [{"a": 1}]

    @pytest.mark.parametrize("limit", [0, -1, True])
    def test_refuses_a_limit_below_one(self, limit: int) -> None:
        with pytest.raises(InputError, match="limit must be at least 1"):
            open_rows("-", limit=limit)

    def test_closes_its_file_when_it_is_left_early(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.csv", "a\n1\n2\n")
        with open_rows(path) as source:
            rows = iter(source)
            assert next(rows) == {"a": "1"}
            assert repr(source) == f"<RowSource {path}>"
        assert list(rows) == []
        source.close()
