"""The example does what it says."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.http

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.http
def test_the_example_prints_a_summary_of_every_text(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "map_texts.py"))
    asyncio.run(example["main"]())
    names = {path.stem for path in (EXAMPLES / "texts").glob("*.txt")}
    printed = [line.partition(": ") for line in capsys.readouterr().out.splitlines() if line]
    assert {name for name, _, summary in printed if summary} == names
    assert len(printed) == len(names)
