"""Rows that cannot be asked: named failures or left out, and their neighbours are answered."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmflow.config import forget_configs
from llmflow.simulator import BatchSettings, SimulatorThread
from tests.cli.conftest import Run, listing, rows_of

Start = Callable[..., SimulatorThread]
Process = Callable[..., "subprocess.Popen[bytes]"]

QUICK = {"seconds": 0.2, "validation_seconds": 0.05, "finalizing_seconds": 0.05}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Look at batch jobs often."""
    path = tmp_path_factory.mktemp("config") / "llmflow.toml"
    path.write_text("[batch]\npoll = 0.05\nquiet = 0.05\n")
    monkeypatch.setenv("LLMFLOW_CONFIG", str(path))
    forget_configs()


GOOD = [{"text": f"text {n}"} for n in range(4)]


def words(sim: SimulatorThread, *more: str, source: str = "in.jsonl") -> list[str]:
    """Return the words of a run."""
    return [
        *("run", source, "--prompt", "{text}", "--model", "openai/x", "--base-url", sim.url),
        *("-o", "out.jsonl", *more),
    ]


def write_some_bad() -> None:
    """Write four good rows; between them a broken line, one without the field, and a null."""
    lines = [json.dumps(row) for row in GOOD]
    lines[1:1] = ["{broken", json.dumps({"body": "x"}), json.dumps({"text": None})]
    Path("in.jsonl").write_text("\n".join(lines) + "\n")


def texts() -> list[tuple[int, str]]:
    return sorted((row["index"], row["response"]) for row in rows_of("out.jsonl"))


ANSWERED = [(0, "text 0"), (4, "text 1"), (5, "text 2"), (6, "text 3")]


@pytest.mark.parametrize("mode", ["parallel", "batch"])
class TestOnBadRow:
    def more(self, mode: str) -> list[str]:
        return ["--mode", "batch"] if mode == "batch" else []

    def start(self, simulator: Start) -> SimulatorThread:
        return simulator(batch=BatchSettings(**QUICK))

    def test_they_are_named_failures_and_the_others_are_answered(
        self, run: Run, simulator: Start, mode: str
    ) -> None:
        write_some_bad()
        ended = run(*words(self.start(simulator), *self.more(mode)))
        assert ended.code == 1, ended.err
        assert texts() == ANSWERED
        broken, lacking, null = sorted(rows_of("out.failed.jsonl"), key=lambda row: row["index"])
        assert (broken["index"], broken["line"], broken["raw"]) == (1, 2, "{broken")
        assert broken["error"]["type"] == "InputError"
        assert "in.jsonl, line 2: not valid JSON" in broken["error"]["message"]
        assert "row 2 has no field 'text'" in lacking["error"]["message"]
        assert "row 3: field 'text' is null" in null["error"]["message"]

    def test_they_are_left_out_and_counted(self, run: Run, simulator: Start, mode: str) -> None:
        write_some_bad()
        options = ["--on-bad-row", "skip", *self.more(mode)]
        ended = run(*words(self.start(simulator), *options))
        assert ended.code == 0, ended.err
        assert texts() == ANSWERED
        assert not Path("out.failed.jsonl").exists()
        assert "4 of 4 answered" in ended.err
        assert "3 left out (--on-bad-row skip), such as: in.jsonl, line 2: not" in ended.err

    def test_the_first_ends_a_run_that_fails_fast(
        self, run: Run, simulator: Start, mode: str
    ) -> None:
        write_some_bad()
        ended = run(*words(self.start(simulator), "--fail-fast", *self.more(mode)))
        assert ended.code == 1, ended.err
        assert "line 2" in ended.err
        assert not Path("out.jsonl").exists()
        if mode == "parallel":
            options = ["--fail-fast", "--on-bad-row", "skip"]
            assert run(*words(self.start(simulator), *options)).code == 0

    def test_empty_cells_are_left_out_on_demand(
        self, run: Run, simulator: Start, mode: str
    ) -> None:
        Path("in.csv").write_text("text,n\na,1\n,2\n  ,3\nd,4\n")
        sim = self.start(simulator)
        ended = run(*words(sim, "--skip-empty", *self.more(mode), source="in.csv"))
        assert ended.code == 0, ended.err
        assert texts() == [(0, "a"), (3, "d")]
        assert "2 left out with empty prompt fields (--skip-empty)" in ended.err


def test_the_report_as_json_counts_them(run: Run, simulator: Start) -> None:
    write_some_bad()
    Path("in.jsonl").write_text(Path("in.jsonl").read_text() + '{"text": ""}\n')
    options = ["--on-bad-row", "skip", "--skip-empty", "--json", "--quiet"]
    report = json.loads(run(*words(simulator(), *options)).out)
    assert (report["items"], report["answered"], report["failed"]) == (4, 4, 0)
    # A null is an empty cell.
    assert (report["skipped"], report["skipped_empty"], report["remaining"]) == (2, 2, 0)


def test_resume_does_as_the_run_did_or_as_it_is_told(run: Run, simulator: Start) -> None:
    write_some_bad()
    sim = simulator()
    assert run(*words(sim, "--on-bad-row", "skip", "--run", "r")).code == 0
    assert run("resume", "r", "--quiet").code == 0
    assert run("resume", "r", "--on-bad-row", "fail").code == 1
    assert len(rows_of("out.failed.jsonl")) == 3
    assert texts() == ANSWERED
    ended = run("resume", "r", "--on-bad-row", "skip", "--skip-empty")
    assert (ended.code, Path("out.failed.jsonl").exists()) == (0, False)


def test_plan_counts_and_names_them(run: Run) -> None:
    write_some_bad()
    Path("in.jsonl").write_text(Path("in.jsonl").read_text() + '{"text": ""}\n{"text": " "}\n')
    options = ["plan", "in.jsonl", "--prompt", "{text}", "--model", "sim/demo"]
    ended = run(*options)
    assert ended.code == 0
    lines = {line.split("  ")[1]: " ".join(line.split()) for line in ended.out.splitlines()[1:]}
    assert lines["cannot be asked"].startswith("cannot be asked 3 the first: in.jsonl, line 2")
    assert lines["empty"].startswith("empty 2 nothing in the prompt's fields; the first is row 7")
    assert lines["left to ask"] == "left to ask 6"
    ended = run(*options, "--on-bad-row", "skip", "--skip-empty", "--json")
    plan = json.loads(ended.out)
    assert (plan["unusable"], plan["skips_unusable"], plan["empty"], plan["left"]) == (
        2,
        True,
        3,
        4,
    )
    skipping = " ".join(run(*options, "--on-bad-row", "skip", "--skip-empty").out.split())
    assert "left out 2 the first: in.jsonl, line 2" in skipping
    assert "left out 3 nothing in the prompt's fields; the first is row 3" in skipping


class TestTheWrongPrompt:
    """What no row has is not the rows' fault: one line with the nearest name, exit code 2."""

    @pytest.mark.parametrize("command", ["run", "plan"])
    @pytest.mark.parametrize("more", [[], ["--on-bad-row", "skip"], ["--skip-empty"]])
    def test_a_field_that_no_row_has(
        self, run: Run, simulator: Start, command: str, more: list[str]
    ) -> None:
        Path("in.jsonl").write_text('{"text": "a"}\n{broken\n{"text": "b", "id": 1}\n')
        options = words(simulator(), *more)
        options[0] = command
        options[options.index("{text}")] = "{txt}"
        ended = run(*options)
        assert ended.code == 2
        assert "no field 'txt' (did you mean 'text'?)" in ended.error
        assert listing() == ["in.jsonl"]

    @pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.parquet"])
    def test_a_field_that_is_in_no_header(self, run: Run, simulator: Start, name: str) -> None:
        if name == "in.parquet":
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": ["a"]}), name)
        else:
            Path(name).write_text("text\na\n")
        options = words(simulator(), source=name)
        options[options.index("{text}")] = "{txt}"
        ended = run(*options)
        assert (ended.code, "did you mean 'text'?" in ended.error) == (2, True)

    def test_rows_of_which_each_lacks_a_field(self, run: Run, simulator: Start) -> None:
        Path("in.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
        options = words(simulator())
        options[options.index("{text}")] = "{a}{b}"
        assert run(*options).code == 2

    def test_a_file_of_which_no_line_can_be_read(self, run: Run, simulator: Start) -> None:
        Path("in.jsonl").write_bytes(b"\x00\x01\n\x02\n")
        ended = run(*words(simulator()))
        assert ended.code == 2
        assert "none of its 2 rows can be read; the first: in.jsonl, line 1" in ended.error

    def test_through_a_pipe_too(self, process: Process, simulator: Start) -> None:
        def pipe(lines: bytes) -> tuple[int, str]:
            popen = process(*words(simulator(), source="-"), stdin=subprocess.PIPE)
            _, err = popen.communicate(lines, timeout=30)
            return popen.returncode, err.decode()

        code, err = pipe(b'{"txt": 1}\n' * 200)
        assert (code, err.count("\n")) == (2, 1)
        assert "no field 'text' (did you mean 'txt'?)" in err
        # A first row that is bad is one bad row.
        code, err = pipe(b'{"txt": 1}\n{broken\n{"text": "a"}\n')
        assert code == 1, err
        assert texts() == [(2, "a")]
        assert [row["index"] for row in rows_of("out.failed.jsonl")] == [0, 1]


class TestOddInput:
    def test_one_warning_counts_what_was_repaired(self, run: Run, simulator: Start) -> None:
        rows = [{"text": "a", "x": float("nan")}, {"text": "b\ud83d"}, {"text": "c"}]
        Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        warning = (
            "llmflow: warning: in.jsonl: read 1 value NaN or Infinity as null and 1 half of "
            "surrogate pairs as U+FFFD, first in line 1\n"
        )
        sim = simulator()
        for more in ([], ["--quiet"]):
            ended = run(*words(sim, *more))
            assert ended.code == 0
            assert ended.err.count("warning") == 1
            assert warning in ended.err
        assert texts() == [(0, "a"), (1, "b\ufffd"), (2, "c")]
        assert warning in run("plan", "in.jsonl", "--prompt", "{text}", "--model", "sim/demo").err

    def test_one_warning_through_a_pipe(self, process: Process, simulator: Start) -> None:
        popen = process(*words(simulator(), source="-"), stdin=subprocess.PIPE)
        _, err = popen.communicate(b'{"text": "a", "x": NaN}\n{"text": "b"}\n', timeout=30)
        assert popen.returncode == 0
        assert err.count(b"warning: <stdin>: read 1 value NaN") == 1

    def test_large_integers_keep_their_digits(self, run: Run, simulator: Start) -> None:
        number = 123456789012345678901234567890
        Path("in.jsonl").write_text(f'{{"text": {number}}}\n')
        assert run(*words(simulator())).code == 0
        assert f'"text": {number}' in Path("out.jsonl").read_text()
        assert texts() == [(0, str(number))]

    @pytest.mark.parametrize(
        ("content", "more", "said"),
        [
            ("id;text\n1;a, b\n", [], "the columns are separated by semicolons"),
            ("id\ttext\n1\ta, b\n", [], "the columns are separated by tabs"),
            ("id|text\n1|a, b\n", ["--delimiter", "|"], ""),
        ],
    )
    def test_delimiters_are_found_out_and_said(
        self, run: Run, simulator: Start, content: str, more: list[str], said: str
    ) -> None:
        Path("in.csv").write_text(content)
        ended = run(*words(simulator(), *more, source="in.csv"))
        assert texts() == [(0, "a, b")]
        assert said in ended.err
        assert ("separated" in ended.err) == bool(said)

    def test_tables_come_through_standard_input(self, process: Process, simulator: Start) -> None:
        for kind, content in (("csv", b"id,text\n1,a\n"), ("tsv", b"id\ttext\n1\ta\n")):
            options = words(simulator(), "--format", kind, source="-")
            popen = process(*options, stdin=subprocess.PIPE)
            popen.communicate(content, timeout=30)
            assert popen.returncode == 0
            assert texts() == [(0, "a")]

    def test_an_encoding_is_named(self, run: Run, simulator: Start) -> None:
        Path("in.csv").write_bytes("text\ncafé\n".encode("latin-1"))
        sim = simulator()
        ended = run(*words(sim, source="in.csv"))
        assert ended.code == 2
        assert "--encoding" in ended.error
        assert run(*words(sim, "--encoding", "latin-1", source="in.csv")).code == 0
        assert texts() == [(0, "café")]

    @pytest.mark.parametrize("command", ["run", "plan"])
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--encoding", "latin-99"], "unknown encoding 'latin-99'"),
            (["--encoding", "base64"], "unknown encoding 'base64'"),
            (["--delimiter", "ab"], "delimiter must be one character"),
            (["--delimiter", ";"], "delimiter is for CSV"),
            (["--format", "xml"], "'--format': 'xml' is not one of"),
            (["--on-bad-row", "ignore"], "'--on-bad-row': 'ignore' is not one of"),
        ],
    )
    def test_what_is_wrong_with_the_options_is_one_line(
        self, run: Run, simulator: Start, command: str, more: list[str], said: str
    ) -> None:
        Path("in.jsonl").write_text('{"text": "a"}\n')
        ended = run(command, *words(simulator(), *more)[1:])
        assert ended.code == 2
        assert said in ended.error
        assert listing() == ["in.jsonl"]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
class TestFileNames:
    """Names that are not UTF-8 work wherever a file is named."""

    @pytest.mark.parametrize("mode", ["parallel", "batch"])
    def test_of_input_and_output(
        self, process: Process, simulator: Start, tmp_path: Path, mode: str
    ) -> None:
        folder = os.fsencode(tmp_path) + b"/d\xe9"
        Path(os.fsdecode(folder)).mkdir()
        (Path(os.fsdecode(folder)) / "in.jsonl").write_text('{"text": "a"}\n{broken\n')
        source, out = folder + b"/\xff.jsonl", folder + b"/out\xfe.jsonl"
        Path(os.fsdecode(folder + b"/in.jsonl")).rename(os.fsdecode(source))
        sim = simulator(batch=BatchSettings(**QUICK))
        options: list[Any] = words(sim, "--mode", mode, "--json", source=os.fsdecode(source))
        options[options.index("out.jsonl")] = os.fsdecode(out)
        popen = process(*options)
        printed, err = popen.communicate(timeout=60)
        assert popen.returncode == 1, err
        assert b"Traceback" not in err
        report = json.loads(printed)
        assert report["output"].endswith("out\ufffd.jsonl")
        assert rows_of(os.fsdecode(out))[0]["response"] == "a"
        assert len(rows_of(os.fsdecode(folder + b"/out\xfe.failed.jsonl"))) == 1
        name = json.loads(self.said(process, "runs", "--json"))["name"]
        for command in (["runs", "show", name], ["runs"], ["status", name]):
            assert name in self.said(process, *command)
        # The bytes of the names come back.
        Path(os.fsdecode(out)).unlink()
        popen = process("resume", name, "--quiet")
        assert (popen.communicate(timeout=60)[1].count(b"error"), popen.returncode) == (0, 1)
        assert rows_of(os.fsdecode(out))[0]["response"] == "a"

    def said(self, process: Process, *command: str) -> str:
        popen = process(*command)
        out, err = popen.communicate(timeout=60)
        assert popen.returncode == 0, err
        return out.decode()

    def test_of_a_folders_members(self, process: Process, simulator: Start, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/\xff.txt")).write_text("a")
        popen = process(*words(simulator(), source="in"))
        assert popen.wait(30) == 0
        (row,) = rows_of("out.jsonl")
        assert (row["file"], row["response"]) == ("\ufffd.txt", "a")

    def test_in_a_plan(self, process: Process) -> None:
        Path(os.fsdecode(b"\xff.jsonl")).write_text('{"text": "a"}\n')
        options = ["plan", os.fsdecode(b"\xff.jsonl"), "-p", "{text}", "-m", "sim/demo"]
        options += ["-o", os.fsdecode(b"\xfe.jsonl")]
        assert "left to ask" in self.said(process, *options)
        assert json.loads(self.said(process, *options, "--json"))["left"] == 1


def test_parquet_columns_keep_their_types(run: Run, simulator: Start) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "text": ["a", "b"],
            "at": pa.array([0, None], type=pa.timestamp("us", "UTC")),
            "tags": pa.array([["x"], []], type=pa.list_(pa.string())),
            "price": pa.array([None, "1.50"]).cast(pa.string()).cast(pa.decimal128(8, 2)),
        }
    )
    pq.write_table(table, "in.parquet")
    options = words(simulator(), "--details", source="in.parquet")
    options[options.index("out.jsonl")] = "out.parquet"
    assert run(*options).code == 0
    found = pq.read_table("out.parquet").sort_by("index").select(table.column_names)
    assert found.equals(table)
