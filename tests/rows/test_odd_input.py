"""Input that is odd and whose meaning is clear: it is read, and said once."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import InputError
from llmflow.rows import PromptTemplate, open_rows
from llmflow.rows.cells import json_line
from tests.rows.test_readers import put, read

BIG = 123456789012345678901234567890


class TestJson:
    @pytest.mark.parametrize(
        "row",
        [
            {"id": BIG},
            {"id": -BIG},
            {"id": 2**64},
            {"id": -(2**63) - 1},
            {"id": 2**64 - 1, "x": 0.5},
            {"user": {"ids": [1, [BIG]]}},
            {"text": "\ud83d\ude00", "id": BIG},
        ],
    )
    def test_integers_above_64_bits_keep_their_digits_in_prompt_and_output(
        self, tmp_path: Path, row: dict[str, Any]
    ) -> None:
        path = put(tmp_path / "a.jsonl", json.dumps(row) + "\n")
        (found,) = read(path)
        name = next(iter(row))
        value = found[name]
        text = PromptTemplate(f"{{{name}}}").render(found)
        assert (str(BIG) in text) == (str(BIG) in json.dumps(row[name]))
        assert text == (str(value) if isinstance(value, int) else text)
        assert json.loads(json_line(found)) == json.loads(json.dumps(row))

    def test_ordinary_numbers_are_what_they_were(self, tmp_path: Path) -> None:
        row = {"f": 0.1, "big": 1e300, "n": -5, "deep": [1.5, {"x": [2.5e18]}]}
        assert read(put(tmp_path / "a.jsonl", json.dumps(row))) == [row]

    def test_nan_infinity_and_halves_of_pairs_are_read_and_counted_once(
        self, tmp_path: Path
    ) -> None:
        rows = [
            {"text": "good"},
            {"text": "a", "x": float("nan"), "y": [float("inf"), -float("inf")]},
            {"text": "half \ud83d", "whole": "\ud83d\ude00"},
            {"\udcff": 1},
        ]
        path = put(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        source = open_rows(path)
        for _ in range(2):  # each reading counts anew
            assert list(source) == [
                {"text": "good"},
                {"text": "a", "x": None, "y": [None, None]},
                {"text": "half \ufffd", "whole": "\U0001f600"},
                {"\ufffd": 1},
            ]
            assert source.repaired == (
                f"{path}: read 3 values NaN or Infinity as null and "
                "2 halves of surrogate pairs as U+FFFD, first in line 2"
            )

    def test_halves_as_python_writes_them_with_surrogatepass_are_read(self, tmp_path: Path) -> None:
        text = json.dumps({"a": "x\ud83d", "b": "\ud83d\ude00"}, ensure_ascii=False)
        source = open_rows(put(tmp_path / "a.jsonl", text.encode("utf-8", "surrogatepass")))
        assert list(source) == [{"a": "x\ufffd", "b": "\U0001f600"}]
        assert source.repaired is not None

    def test_what_needs_no_repair_says_nothing(self, tmp_path: Path) -> None:
        source = open_rows(put(tmp_path / "a.jsonl", '{"a": 1.5}\n'))
        assert list(source)
        assert source.repaired is None

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        lines = (f'{{"id": {BIG}, "x": NaN, "text": "{"x" * 1000}"}}\n' for _ in range(20_000))
        source = open_rows(put(tmp_path / "a.jsonl", "".join(lines)))
        tracemalloc.start()
        try:
            assert sum(1 for _ in source) == 20_000
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()


class TestFileNames:
    def test_that_are_no_utf8_are_read(self, tmp_path: Path) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
        put(Path(path), '{"a": 1}\n')
        source = open_rows(path)
        assert list(source) == [{"a": 1}]
        assert source.name.endswith("caf\ufffd.jsonl")

    def test_of_a_folders_members_too(self, tmp_path: Path) -> None:
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")), "text")
        assert read(tmp_path) == [{"file": "caf\ufffd.txt", "text": "text"}]


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "UTF-8"])
    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "txt", "folder"])
    def test_a_named_encoding_is_read(self, tmp_path: Path, encoding: str, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        content = {
            "jsonl": '{"text": "café"}\n{"text": "naïve"}\n',
            "csv": "text,n\ncafé,1\nnaïve,2\n",
            "tsv": "text\tn\ncafé\t1\nnaïve\t2\n",
            "txt": "café\nnaïve\n",
            "folder": "",
        }[suffix]
        if suffix == "folder":
            path.mkdir()
            for name, text in (("1.txt", "café"), ("2.txt", "naïve")):
                put(path / name, text.encode(encoding))
        else:
            put(path, content.encode(encoding))
        source = open_rows(path, encoding=encoding)
        assert [row["text"] for row in source] == ["café", "naïve"]

    def test_standard_input_has_it_too(self) -> None:
        content = io.BytesIO('{"text": "café"}\n'.encode("utf-16"))
        assert read("-", stdin=content, encoding="utf-16") == [{"text": "café"}]
        assert not content.closed

    def test_another_encoding_than_the_texts_is_said(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.csv", b"text,n\n\x81\x8d,1\n")
        with pytest.raises(InputError, match="line 2: the text is not cp1252"):
            read(path, encoding="cp1252")

    @pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "", "latin\0"])
    def test_what_is_no_encoding_of_text_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="unknown encoding"):
            open_rows("-", stdin=io.BytesIO(), encoding=name)

    @pytest.mark.parametrize("name", ["idna", "punycode", "undefined"])
    def test_what_is_no_encoding_of_files_is_refused(self, name: str) -> None:
        with pytest.raises(InputError, match="unknown encoding"):
            open_rows("-", stdin=io.BytesIO(), encoding=name)

    @pytest.mark.parametrize("suffix", [".csv", ".txt", ".jsonl"])
    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_a_text_without_the_mark_that_its_encoding_needs_is_an_error_in_one_line(
        self, tmp_path: Path, encoding: str, suffix: str
    ) -> None:
        path = put(tmp_path / f"a{suffix}", b'{"a": "good, old text"}\n' * 3)
        with pytest.raises(InputError, match=r"cannot be decoded: .* BOM"):
            list(open_rows(path, encoding=encoding, bad_rows="keep"))


class TestTables:
    @pytest.mark.parametrize(
        ("content", "rows", "named"),
        [
            ("id;text\n1;a, b\n", [{"id": "1", "text": "a, b"}], "semicolons"),
            ('id;text\n1;"a;b"\n', [{"id": "1", "text": "a;b"}], "semicolons"),
            ("id\ttext\n1\ta, b\n", [{"id": "1", "text": "a, b"}], "tabs"),
            ("id;text, long\n1;a\n", [{"id": "1", "text, long": "a"}], "semicolons"),
            ("id,text\n1,a; b\n", [{"id": "1", "text": "a; b"}], None),
            ("id,text;x\n1,a\n", [{"id": "1", "text;x": "a"}], None),
            ("text\na; b\n", [{"text": "a; b"}], None),
            ('"a\n"\n"b;c"\n;\n', [{"a\n": "b;c"}, {"a\n": ";"}], None),
            ("text; more\na\nb\nc\n", [{"text; more": each} for each in "abc"], None),
        ],
    )
    def test_what_separates_the_columns_is_found_out_and_said(
        self, tmp_path: Path, content: str, rows: list[dict[str, str]], named: str | None
    ) -> None:
        source = open_rows(put(tmp_path / "a.csv", content))
        assert list(source) == rows
        assert source.fields == tuple(rows[0])
        assert [named in remark for remark in source.remarks if named] == [True] * bool(named)
        assert len(source.remarks) == bool(named)

    def test_an_open_quote_does_not_hide_what_separates_the_columns(self, tmp_path: Path) -> None:
        path = put(tmp_path / "a.csv", 'text;n\nhello;1\n"open;2\nok;3\n')
        assert open_rows(path, bad_rows="keep").fields == ("text", "n")

    def test_a_tsv_with_semicolons_or_commas_is_found_out_as_well(self, tmp_path: Path) -> None:
        for mark in ";,":
            path = put(tmp_path / "a.tsv", f"a{mark}b\n1{mark}2\n")
            assert read(path) == [{"a": "1", "b": "2"}]

    @pytest.mark.parametrize("given", ["|", "tab", "\\t", "\t", ";"])
    def test_a_given_delimiter_is_used(self, tmp_path: Path, given: str) -> None:
        mark = "\t" if len(given) > 1 else given
        source = open_rows(put(tmp_path / "a.csv", f"a{mark}b,c\n1{mark}2\n"), delimiter=given)
        assert list(source) == [{"a": "1", "b,c": "2"}]
        assert source.remarks == ()

    @pytest.mark.parametrize("given", ["", ";;", '"', "\n", "comma"])
    def test_what_is_no_delimiter_is_refused(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(InputError, match="delimiter must be one character"):
            open_rows(put(tmp_path / "a.csv", "a,b\n1,2\n"), delimiter=given)

    @pytest.mark.parametrize(
        ("kind", "content"), [("csv", "a,b\n1,2\n"), ("tsv", "a\tb\n1\t2\n"), ("csv", "a;b\n1;2\n")]
    )
    def test_come_through_standard_input_and_pipes(
        self, tmp_path: Path, kind: str, content: str
    ) -> None:
        stdin = io.BytesIO(content.encode())
        source = open_rows("-", stdin=stdin, format=kind)
        assert source.head() == [{"a": "1", "b": "2"}]
        assert list(source) == [{"a": "1", "b": "2"}]
        assert len(source.remarks) == (";" in content)
        assert not stdin.closed
        assert read(put(tmp_path / "a.dat", content), format=kind) == [{"a": "1", "b": "2"}]

    @pytest.mark.parametrize(
        ("name", "options", "said"),
        [
            ("a.jsonl", {"delimiter": ";"}, "delimiter is for CSV"),
            ("a.txt", {"delimiter": ";"}, "delimiter is for CSV"),
            (".", {"delimiter": ";"}, "delimiter is for CSV"),
            (".", {"format": "csv"}, "has no format"),
            ("a.jsonl", {"format": "xml"}, "format must be jsonl, csv, tsv, txt; got 'xml'"),
            ("a.parquet", {"encoding": "latin-1"}, "encoding is for text"),
            ("-", {"delimiter": ";"}, "delimiter is for CSV"),
        ],
    )
    def test_options_without_effect_are_refused(
        self, tmp_path: Path, name: str, options: dict[str, str], said: str
    ) -> None:
        put(tmp_path / "a.jsonl", "{}")
        put(tmp_path / "a.txt", "x")
        put(tmp_path / "a.parquet", "x")
        if name == "a.parquet":
            pytest.importorskip("pyarrow")
        with pytest.raises(InputError, match=said):
            open_rows(name if name == "-" else tmp_path / name, stdin=io.BytesIO(), **options)  # type: ignore[arg-type]
