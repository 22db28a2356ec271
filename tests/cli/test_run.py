"""``llmflow run`` where all is well, or only some rows are not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, listing, rows_of, write_rows

pytestmark = [pytest.mark.http, pytest.mark.every_python]

Start = Callable[..., SimulatorThread]


def words(sim: SimulatorThread, source: str = "in.jsonl", out: str = "out.jsonl") -> list[str]:
    options = ["--prompt", "{text}", "--model", "openai/x", "--base-url", sim.url]
    return ["run", source, *options, "-o", out]


class TestAllAnswered:
    def test_every_row_is_in_the_output_with_its_answer(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 30)
        result = run(*words(simulator()))
        assert result.code == 0
        assert result.out == ""
        rows = sorted(rows_of("out.jsonl"), key=lambda row: row["index"])
        assert rows[7] == {"index": 7, "id": 7, "text": "text 7", "response": "text 7"}
        assert len(rows) == 30
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_the_report_is_on_standard_error(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        lines = run(*words(simulator(rpm=6000, burst_seconds=60))).err.splitlines()
        assert lines[0].startswith("3 of 3 answered by openai/x in ")
        assert lines[0].endswith("-> out.jsonl")
        assert lines[1].startswith("requests 3, rate-limited (429) 0; tokens ")
        assert "of 6,000 rpm" in lines[2]

    def test_quiet_says_nothing(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        result = run(*words(simulator()), "--quiet")
        assert (result.code, result.out, result.err) == (0, "", "")

    def test_json_is_one_line_on_standard_output(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        result = run(*words(simulator()), "--json")
        assert result.err == ""
        assert result.out.count("\n") == 1
        report = orjson.loads(result.out)
        assert report["answered"] == report["items"] == report["requests"] == 3
        assert (report["failed"], report["remaining"], report["stopped_by"]) == (0, 0, None)
        assert report["output"] == "out.jsonl"

    def test_limit_reads_only_the_first_rows(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 30)
        sim = simulator()
        assert run(*words(sim), "--limit", "4").code == 0
        assert sorted(row["index"] for row in rows_of("out.jsonl")) == [0, 1, 2, 3]
        assert sim.stats().received == 4

    def test_an_earlier_output_is_replaced_at_the_end(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 1)
        Path("out.jsonl").write_text("old")
        Path("out.failed.jsonl").write_text("old")
        run(*words(simulator()))
        assert listing() == ["in.jsonl", "out.jsonl"]
        assert len(rows_of("out.jsonl")) == 1

    def test_what_an_unfinished_run_left_is_kept(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 1)
        Path("out.partial.jsonl").write_text("paid for")
        result = run(*words(simulator()))
        assert "kept in out.partial-1.jsonl" in result.err
        assert Path("out.partial-1.jsonl").read_text() == "paid for"

    def test_the_options_reach_the_provider(
        self, run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
        write_rows("in.jsonl", 1)
        sim = simulator(api_key="sk-right", tpm=1000, burst_seconds=60)
        options = ["--system", "Be short.", "--max-tokens", "900", "--rpm", "10k", "--tpm", "1M"]
        result = run(*words(sim), *options, "--concurrency", "3", "--json")
        assert result.code == 0
        report = orjson.loads(result.out)
        assert report["limits"] == {"rpm": 10_000.0, "tpm": 1000.0}
        assert report["output_tokens"] > 0
        assert report["input_tokens"] > 4


class TestFormats:
    def test_csv_in_and_out(self, run: Run, simulator: Start) -> None:
        Path("in.csv").write_text('name,text\nann,"one, two"\nbob,three\n')
        assert run(*words(simulator(), "in.csv", "out.csv")).code == 0
        with Path("out.csv").open(newline="") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: row["index"])
        one = {"index": "0", "name": "ann", "text": "one, two", "response": "one, two"}
        assert rows[0] == one

    def test_parquet_in_and_out(self, run: Run, simulator: Start) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        write_rows("in.jsonl", 5)
        sim = simulator()
        assert run(*words(sim, out="mid.parquet")).code == 0
        assert run(*words(sim, "mid.parquet", "out.parquet")).code == 0
        table = parquet.read_table("out.parquet").to_pydict()
        assert sorted(table["response"]) == [f"text {n}" for n in range(5)]

    def test_a_line_of_a_text_file_is_a_row(self, run: Run, simulator: Start) -> None:
        Path("in.txt").write_text("one\n\ntwo\n")
        run(*words(simulator(), "in.txt"))
        assert sorted(row["response"] for row in rows_of("out.jsonl")) == ["one", "two"]

    def test_a_file_of_a_folder_is_a_row(self, run: Run, simulator: Start) -> None:
        Path("texts").mkdir()
        for name in ("b.txt", "a.md", "c.bin"):
            Path("texts", name).write_text(f"in {name}")
        run(*words(simulator(), "texts"))
        rows = sorted(rows_of("out.jsonl"), key=lambda row: row["index"])
        assert [(row["file"], row["response"]) for row in rows] == [
            ("a.md", "in a.md"),
            ("b.txt", "in b.txt"),
        ]


class TestFailures:
    def test_a_row_that_cannot_be_asked_is_beside_the_output(
        self, run: Run, simulator: Start
    ) -> None:
        Path("in.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n{"text": "c"}\n')
        result = run(*words(simulator()))
        assert result.code == 1
        *_, failed, reason = result.err.splitlines()
        assert failed == "1 failed -> out.failed.jsonl"
        assert reason.startswith("1 x InputError, such as: ")
        (failure,) = rows_of("out.failed.jsonl")
        assert (failure["index"], failure["txt"]) == (1, "b")
        assert failure["error"]["type"] == "InputError"
        assert "no field 'text'" in failure["error"]["message"]
        assert len(rows_of("out.jsonl")) == 2

    def test_a_row_that_the_provider_refuses_is_beside_the_output(
        self, run: Run, simulator: Start
    ) -> None:
        long = "word " * 500
        Path("in.jsonl").write_bytes(
            b'{"text": "a"}\n' + orjson.dumps({"text": long}) + b'\n{"text": "c"}\n'
        )
        result = run(*words(simulator(context_tokens=100)), "--json")
        assert result.code == 1
        report = orjson.loads(result.out)
        assert (report["answered"], report["failed"]) == (2, 1)
        assert report["failures"] == "out.failed.jsonl"
        (failure,) = rows_of("out.failed.jsonl")
        assert failure["error"]["type"] == "ContextLengthError"
        assert failure["error"]["status"] == 400

    def test_passing_faults_and_rate_limits_lose_nothing(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 30)
        sim = simulator(rpm=1200, burst_seconds=1, faults={"server_error": 0.1, "reset": 0.05})
        result = run(*words(sim), "--json")
        assert result.code == 0
        assert orjson.loads(result.out)["answered"] == len(rows_of("out.jsonl")) == 30
