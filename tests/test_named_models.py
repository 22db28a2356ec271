"""What users copy names models that can be asked next year, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmflow.pricing import price_of

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).parent.parent
# With an announced end, as of 2026-11: by the docstrings of OpenAI's and Anthropic's packages.
ENDING = re.compile(
    r"""(?<![\w.-])(?:
        gpt-3\.5[\w.-]* | gpt-4[\w.-]* | o1(?:-\w+)? | o3(?:-\w+)? | o4-mini
        | gpt-5(?:-(?:mini|nano|pro|chat|codex)[\w-]*)?(?![\w.-]) | gpt-5\.1[\w.-]* | gpt-5\.4-nano
        | claude-(?:3|instant|2)[\w.-]* | claude-(?:opus|sonnet)-4(?:-[0-5](?!\d)[\w-]*)?(?![\w-])
        | claude-mythos-preview
    )""",
    re.VERBOSE,
)
ANY = re.compile(r"\b((?:openai|anthropic|groq)/(?:openai/)?(?:gpt|claude)-[\w.-]*\w)")
TOLD = [
    ROOT / "README.md",
    ROOT / "pyproject.toml",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.py")),
]
# The simulator refuses what old models refuse; Anthropic counts the old ones' requests together;
# old models know fewer ways to be asked for a schema; and litellm is warmed up with an answer that
# nobody is asked for.
KNOWING = {
    *("openai/chat_request.py", "openai/strict_schema.py", "openai/chat_output.py"),
    *("anthropic/__init__.py", "anthropic/message_output.py", "litellm/client.py"),
}
SOURCES = [
    path
    for folder in ("llmflow", "providers")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {path.name, f"{path.parent.name}/{path.name}"} & KNOWING
]


@pytest.mark.parametrize("path", [*TOLD, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_model_that_is_about_to_be_shut_down_is_shown(path: Path) -> None:
    assert ENDING.findall(path.read_text("utf-8")) == []


def test_every_model_that_is_shown_has_a_price() -> None:
    shown = {name for path in TOLD for name in ANY.findall(path.read_text("utf-8"))}
    assert {"openai/gpt-6-luna", "anthropic/claude-haiku-5-5"} <= shown
    assert {name for name in shown if price_of(name) is None} == set()


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("openai/gpt-4.1-mini", True),
        ("gpt-5-mini", True),
        ("gpt-5.1", True),
        ("anthropic/claude-sonnet-4-5", True),
        ("o3", True),
        ("gpt-5.4-mini", False),
        ("gpt-6-luna", False),
        ("claude-sonnet-4-6", False),
        ("claude-haiku-4-5", False),
        ("groq/openai/gpt-oss-20b", False),
    ],
)
def test_the_names_are_told_apart(name: str, ending: bool) -> None:
    assert bool(ENDING.search(name)) is ending
