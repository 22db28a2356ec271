"""The first line of a docstring: at most 12 words that say what a thing is or does."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).parent.parent
MOST_WORDS = 12
QUESTIONS = {"What", "How", "Where", "When", "Which", "Who", "Whose", "Whether", "Why"}
# How many break the rule. There may not be more: lower a number when there are fewer.
LEFT = {"module": 0, "class": 0, "function": 0}


def keeps_the_rule(line: str) -> bool:
    words = line.split()
    return len(words) <= MOST_WORDS and words[0].split("'")[0] not in QUESTIONS


def public(path: Path, tree: ast.Module) -> Iterator[tuple[str, str, ast.AST]]:
    """Yield what a file defines for others: its kind, its name, and itself."""
    yield "module", str(path.relative_to(ROOT)), tree
    waiting: list[tuple[str, ast.AST]] = [(f"{path.relative_to(ROOT)}:", tree)]
    while waiting:
        prefix, outer = waiting.pop()
        for node in ast.iter_child_nodes(outer):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if node.name.startswith("_"):
                    continue
                name = f"{prefix} {node.name}"
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                yield kind, name, node
                if kind == "class":
                    waiting.append((f"{name}.", node))


@pytest.fixture(name="broken", scope="module")
def _broken() -> dict[str, list[str]]:
    """Return the docstrings that break the rule, by kind."""
    found = defaultdict(list)
    for path in sorted([*ROOT.glob("llmflow/**/*.py"), *ROOT.glob("providers/**/*.py")]):
        for kind, name, node in public(path, ast.parse(path.read_text("utf-8"))):
            text = ast.get_docstring(node)  # type: ignore[arg-type]
            if text and not keeps_the_rule(text.splitlines()[0]):
                found[kind].append(f"{name}: {text.splitlines()[0]}")
    return found


@pytest.mark.parametrize("kind", LEFT)
def test_first_lines_say_what_a_thing_is_or_does(kind: str, broken: dict[str, list[str]]) -> None:
    assert len(broken[kind]) <= LEFT[kind], "\n" + "\n".join(broken[kind])


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("The limiter's lock, which runs deferred work when it is released.", True),
        ("Whatever the words are.", True),
        ("What a thing is.", False),
        ("How it goes.", False),
        ("Who's there.", False),
        (" ".join(["word"] * 12), True),
        (" ".join(["word"] * 13), False),
    ],
)
def test_the_rule_itself(line: str, kept: bool) -> None:
    assert keeps_the_rule(line) is kept
