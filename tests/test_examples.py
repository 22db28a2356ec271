"""The examples of typed output run, and print what they say."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.source_tree, pytest.mark.process]

EXAMPLES = Path(__file__).parent.parent / "examples"
REVIEWS = EXAMPLES / "reviews.jsonl"


def main_of(name: str, *arguments: Any) -> None:
    asyncio.run(runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments))


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_gives_a_typed_column_for_each_field(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pandas")
    shutil.copy(REVIEWS, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in code_of(EXAMPLES / "classify_reviews.ipynb"):
        exec(compile(cell, "cell", "exec", dont_inherit=True), names)
    labelled = names["labelled"]
    rows = len(REVIEWS.read_text("utf-8").splitlines())
    assert len(labelled) == rows
    assert labelled["error"].isna().all()
    assert set(labelled["sentiment"]) <= {"positive", "negative", "neutral"}
    assert labelled["score"].between(1, 5).all()
    assert (str(labelled["score"].dtype), str(labelled["refund"].dtype)) == ("Int64", "boolean")
    assert set(names["language"]["response"]) <= {"en", "de", "fr"}


def test_the_outputs_shown_in_the_notebook_are_of_its_cells() -> None:
    cells = json.loads((EXAMPLES / "classify_reviews.ipynb").read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert len(outputs) > 3
    assert {output["output_type"] for output in outputs} == {"execute_result"}


def test_records_are_extracted_from_every_mail(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("extract_records")
    lines = capsys.readouterr().out.splitlines()
    mails = runpy.run_path(str(EXAMPLES / "extract_records.py"))["MAILS"]
    assert [line for line in lines if not line.startswith("  ")] == mails
    assert all(", by " in line for line in lines if line.startswith("  "))


def test_the_judge_grades_every_answer(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("judge_answers")
    *graded, mean = capsys.readouterr().out.splitlines()
    questions = runpy.run_path(str(EXAMPLES / "judge_answers.py"))["QUESTIONS"]
    assert [line.split(maxsplit=2)[-1] for line in graded] == questions
    grades = [int(line[0]) for line in graded]
    assert mean == f"{sum(grades) / len(grades):.1f}  on average"


def test_summaries_are_reduced_to_one_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("map_reduce_summaries")
    first = capsys.readouterr().out
    assert "24 summaries -> 4\n4 summaries -> 1\n" in first
    main_of("map_reduce_summaries")
    again = capsys.readouterr().out
    assert again.split("run map-reduce:")[0] == first.split("run map-reduce:")[0]
    assert "29 from the journal" in again


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_command_line_gives_a_column_for_each_field(suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    output = tmp_path / f"labelled{suffix}"
    commands = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", EXAMPLES / "classify_reviews.sh", output],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()[-3:]
    assert sorted(line.split()[0] for line in printed) == ["1", "2", "3"]
    assert output.exists()
