"""How answers came about: in rows with --details, and in the closing report."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.rows.records import DETAILS
from llmflow.simulator import Faults
from tests.cli.conftest import Run, rows_of, write_rows
from tests.cli.sessions import Start

pytestmark = pytest.mark.http

MODELS = ["openai/m", "anthropic/m"]


def at(sim: Any, model: str = "openai/m") -> list[str]:
    url = sim.url if model.startswith("openai") else f"{sim.root_url}/v1"
    return ["--model", model, "--base-url", url, "--prompt", "Say: {text}"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")


def check(row: dict[str, Any], *, finish_reason: str = "stop") -> None:
    assert row["finish_reason"] == finish_reason
    assert row["model"] == "m"
    assert int(row["input_tokens"]) > 0
    assert int(row["output_tokens"]) > 0
    assert int(row["attempts"]) == 1
    assert row["error"] in (None, "")


@pytest.mark.parametrize("model", MODELS)
def test_details_add_columns_and_replayed_rows_have_them_too(
    run: Run, simulator: Start, model: str
) -> None:
    sim = simulator()
    source = write_rows("in.jsonl", 5)
    for session in range(2):
        ended = run("run", source, "-o", "out.jsonl", "--details", *at(sim, model))
        assert ended.code == 0, ended.err
        rows = rows_of("out.jsonl")
        assert len(rows) == 5
        for row in rows:
            assert list(row) == ["index", "id", "text", "response", *DETAILS]
            check(row)
        assert ("from the journal" in ended.err) == bool(session)


def test_without_details_rows_are_as_before(run: Run, simulator: Start) -> None:
    run("run", write_rows("in.jsonl", 2), "-o", "out.jsonl", *at(simulator()))
    assert list(rows_of("out.jsonl")[0]) == ["index", "id", "text", "response"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl"])
def test_details_in_every_format_keep_fields_of_the_same_names(
    run: Run, simulator: Start, suffix: str
) -> None:
    sim = simulator()
    line = orjson.dumps({"text": "Hi", "model": "T-34", "error": "none", "cost": 7, "index": 9})
    Path("in.jsonl").write_bytes(line + b"\n")
    ended = run("run", "in.jsonl", "-o", f"out.{suffix}", "--details", *at(sim))
    assert ended.code == 0, ended.err
    (row,) = read(Path(f"out.{suffix}"))
    check(row)
    assert (row["input_model"], row["input_error"]) == ("T-34", "none")
    assert (int(row["input_cost"]), int(row["input_index"]), int(row["index"])) == (7, 9, 0)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from llmflow.rows import open_rows

        return list(open_rows(path))
    if path.suffix == ".jsonl":
        return rows_of(path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_a_csv_has_the_columns_in_their_order(run: Run, simulator: Start) -> None:
    Path("in.csv").write_text("text,model\nHi,T-34\n", "utf-8")
    run("run", "in.csv", "-o", "out.csv", "--details", *at(simulator()))
    header = Path("out.csv").read_text("utf-8").splitlines()[0]
    assert header == ",".join(["index", "text", "input_model", "response", *DETAILS])


def test_details_on_standard_output(run: Run, simulator: Start) -> None:
    ended = run("run", write_rows("in.jsonl", 2), "-o", "-", "--details", *at(simulator()))
    for line in ended.out.splitlines():
        check(orjson.loads(line))


def test_resume_with_details_adds_them_to_what_was_answered_before(
    run: Run, simulator: Start
) -> None:
    sim = simulator()
    ended = run("run", write_rows("in.jsonl", 3), "-o", "out.jsonl", "--run", "one", *at(sim))
    assert ended.code == 0, ended.err
    for options in (["--details"], []):  # and it stays so
        assert run("resume", "one", *options).code == 0
        for row in rows_of("out.jsonl"):
            check(row)


def test_failed_rows_have_the_same_columns(run: Run, simulator: Start) -> None:
    sim = simulator(context_tokens=100)
    Path("in.jsonl").write_bytes(orjson.dumps({"text": "word " * 500, "cost": 7}) + b"\n")
    ended = run("run", "in.jsonl", "-o", "out.jsonl", "--details", *at(sim))
    assert ended.code == 1, ended.err
    (row,) = rows_of("out.failed.jsonl")
    assert list(row) == ["index", "text", "input_cost", *DETAILS]
    assert row["error"]["type"] == "ContextLengthError"
    assert (row["attempts"], row["cost"], row["input_cost"]) == (1, None, 7)


@pytest.mark.parametrize("model", MODELS)
def test_cut_answers_are_told_with_the_remedy(run: Run, simulator: Start, model: str) -> None:
    sim = simulator()
    source = write_rows("in.jsonl", 4)
    options = ["-o", "out.jsonl", "--details", "--max-tokens", "2", *at(sim, model)]
    for _ in range(2):
        ended = run("run", source, *options)
        lines = ended.err.splitlines()
        assert "4 answers cut at max_tokens" in lines
        assert "100.0% of the answers were cut: raise --max-tokens" in lines
        for row in rows_of("out.jsonl"):
            check(row, finish_reason="length")
    report = orjson.loads(run("run", source, "--json", *options).out)
    assert (report["cut"], report["empty"]) == (4, 0)
    assert report["run"]["cut"] == 4


def test_retries_are_in_the_report(run: Run, simulator: Start) -> None:
    sim = simulator(faults=Faults(server_error=0.3), seed=3)
    ended = run("run", write_rows("in.jsonl", 40), "-o", "out.jsonl", "--json", *at(sim))
    report = orjson.loads(ended.out)
    assert report["retried"] == report["retries"]["500"] > 0
    assert report["run"]["retries"] == report["retries"]
