"""Documents are checked: Python blocks run, links and paths exist, examples work."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmflow import LLM, Run
from llmflow.runs.catalog import list_runs
from llmflow.testing import ScriptedProvider

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
if not ARCHITECTURE.exists():
    pytest.skip("needs the source tree", allow_module_level=True)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    )
]

EXTRAS = ("litellm", "opentelemetry", "pandas", "polars", "pyarrow", "structlog")


def skip_without_extras(block: str) -> None:
    for name in EXTRAS:
        if re.search(rf"^\s*(?:import|from) {name}\b", block, re.MULTILINE):
            pytest.importorskip(name)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_runs(block: str, tmp_path: Path) -> None:
    skip_without_extras(block)
    environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_what_is_shown_of_runs_holds_for_people_who_have_some(tmp_path: Path) -> None:
    for name in ("mine", "notes", "notes-of-2025"):
        with Run(name):
            LLM(ScriptedProvider()).run("x")
    (block,) = (each.values[0] for each in BLOCKS if "remove_run" in str(each.values[0]))
    for _ in range(2):
        test_every_python_block_runs(str(block), tmp_path)
    assert sorted(each.name for each in list_runs()) == ["mine", "notes", "notes-of-2025"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "path", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.stem
)
def test_paths_in_the_maps_exist(path: Path) -> None:
    named = re.findall(
        r"`((?:llmflow|providers|tests|scripts|benchmarks)/[\w/.]*)`", path.read_text("utf-8")
    )
    assert len(named) > 10
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_the_readme_can_be_scanned() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 200
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "Install",
        "Quick start",
        "Notebook",
        "Command line",
        "Quotas",
        "Batch",
        "Resume",
        "Limits of it",
    ]


def test_the_glossary_is_short() -> None:
    glossary = ARCHITECTURE.read_text("utf-8").split("## Glossary")[1]
    assert 10 < len(re.findall(r"^\| (?!word )\w", glossary, re.MULTILINE)) <= 30


def load(name: str) -> ModuleType:
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.http
async def test_the_parallel_node_of_the_examples_summarises_every_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = load("parallel_summaries")
    await example.main()
    summaries = capsys.readouterr().out.strip().split("\n\n")
    assert len(summaries) == len(list(example.TEXTS.glob("*.txt")))
    assert all(summaries)


@pytest.mark.http
async def test_the_parallel_flow_of_the_examples_summarises_every_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = load("summarize_files")
    files = [str(path) for path in sorted(example.TEXTS.glob("*.txt"))[:5]]
    await example.main(files)
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if line] == [
        Path(name).stem for name in files
    ]


@pytest.mark.http
async def test_the_batch_node_of_the_examples_labels_every_text_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = load("overnight_labels")
    await example.main()
    first = capsys.readouterr().out
    assert f"{len(list(example.TEXTS.glob('*.txt')))} answered" in first
    await example.main()
    again = capsys.readouterr().out
    assert "from the journal" in again
    assert again.splitlines()[0] == first.splitlines()[0]
