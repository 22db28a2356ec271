"""The lowest declared versions: every dependency declares one, and the script prints it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "lowest_versions.py"
PROJECT: dict[str, Any] = {
    "name": "a-project",
    "dependencies": [
        "plain>=1.2",
        "bounded>=3.11,<4",
        "without>=8.1,!=8.2.0",
        "extra[one,two]>=1.0",
        "compatible ~= 2.5.1",
        "only_there>=0.21; sys_platform != 'win32'",
    ],
    "optional-dependencies": {
        "fast": ["swift>=1", "plain>=1.2"],
        "all": ["A_Project[fast, more]"],
        "more": ["more>=2", "a-project[all]"],
        "open": ["anything"],
    },
}

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not installed")


@pytest.fixture(name="lowest", scope="module")
def _lowest() -> Callable[..., list[str]]:
    found: Callable[..., list[str]] = runpy.run_path(str(SCRIPT))["lowest_versions"]
    return found


def test_a_bound_becomes_the_version_itself(lowest: Callable[..., list[str]]) -> None:
    assert lowest(PROJECT) == [
        "plain==1.2",
        "bounded==3.11",
        "without==8.1",
        "extra==1.0",
        "compatible==2.5.1",
        "only_there==0.21; sys_platform != 'win32'",
    ]


def test_extras_are_followed_and_told_once(lowest: Callable[..., list[str]]) -> None:
    assert lowest(PROJECT, ["all"])[6:] == ["swift==1", "more==2"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [("open", "'anything' says no lowest version"), ("opne", "there is no extra 'opne'")],
)
def test_what_has_no_lowest_version_is_refused(
    lowest: Callable[..., list[str]], extra: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        lowest(PROJECT, [extra])


def test_every_dependency_of_this_project_declares_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *project["optional-dependencies"]],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = ran.stdout.splitlines()
    names = {re.split("==", line)[0] for line in lines}
    declared = {re.split(r"[\[<>=!~ ;]", each)[0] for each in project["dependencies"]}
    assert declared <= names
    assert {"litellm", "pyarrow", "opentelemetry-api", "pytest", "hypothesis"} <= names
    assert all(re.match(r"[a-z-]+==\d[\d.]*(; .+)?$", line) for line in lines)


def test_an_unknown_extra_is_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("lowest_versions: there is no extra 'nonsense'")
    assert len(ran.stderr.splitlines()) == 1
