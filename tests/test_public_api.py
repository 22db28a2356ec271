"""Conventions that a reviewer would otherwise have to look for."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmflow
import llmflow.events
import llmflow.provider
import llmflow.simulator
import llmflow.telemetry
import llmflow.testing
import llmflow.types

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).parent.parent
PUBLIC = [llmflow, llmflow.events, llmflow.telemetry, llmflow.testing, llmflow.simulator]
NAMES = [(module, name) for module in PUBLIC for name in module.__all__]


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_sorted_and_true(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[name for _, name in NAMES])
def test_everything_public_is_documented(module: object, name: str) -> None:
    item = getattr(module, name)
    if inspect.isclass(item) or inspect.isfunction(item):
        assert item.__doc__
        for method_name, method in vars(item).items():
            if inspect.isfunction(method) and not method_name.startswith("_"):
                assert inspect.getdoc(getattr(item, method_name)), f"{name}.{method_name}"


@pytest.mark.parametrize("name", llmflow.__all__)
def test_public_classes_say_where_users_find_them(name: str) -> None:
    item = getattr(llmflow, name)
    if inspect.isclass(item):
        assert item.__module__ == "llmflow"


# The simulator's record of a request that is under way.
MUTABLE = {"Reply"}


def test_dataclasses_are_frozen_and_keyword_only() -> None:
    for module in (*PUBLIC, llmflow.types):
        names = {*vars(module), *getattr(module, "__all__", ())}
        for name in names - MUTABLE:
            item = getattr(module, name)
            if dataclasses.is_dataclass(item) and isinstance(item, type):
                parameters = item.__dataclass_params__  # type: ignore[attr-defined]
                assert parameters.frozen, name
                signature = inspect.signature(item)
                kinds = {each.kind for each in signature.parameters.values()}
                assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name


def test_what_is_imported_late_is_there_all_the_same() -> None:
    code = """
import pickle, sys
import llmflow
assert "sqlite3" not in sys.modules and "llmflow.budget" not in sys.modules
assert not {"llmflow.rows", "llmflow.mapping.result"} & set(sys.modules)
assert set(llmflow.__all__) <= set(dir(llmflow))
from llmflow import *
assert Budget(usd=1).usd == 1 and Budget is llmflow.Budget and Budget.__module__ == "llmflow"
assert pickle.loads(pickle.dumps(Budget(usd=1))) == Budget(usd=1)
assert "sqlite3" not in sys.modules
try:
    llmflow.Budgets
except AttributeError as error:
    assert "'Budgets'" in str(error)
else:
    raise SystemExit("a name that nobody has given")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


# What takes long to load, and is not needed by everyone who imports llmflow.
LATE = {
    *("aiohttp", "dotenv", "email.utils", "importlib.metadata", "jsonschema_rs", "litellm"),
    *("numpy", "opentelemetry", "pandas", "pyarrow", "pydantic", "rich", "shutil", "sqlite3"),
    *("tempfile", "tiktoken", "tomllib", "llmflow.budget", "llmflow.journal.journal"),
    *("llmflow.cache", "llmflow.mapping.result", "llmflow.rows", "llmflow.typed"),
}


def test_importing_llmflow_loads_only_what_every_program_needs() -> None:
    # What the environment's own .pth files have loaded before does not count.
    code = (
        "import sys; before = set(sys.modules); import llmflow; print(*sys.modules.keys() - before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "llmflow.llm" in loaded
    assert not loaded & LATE


def test_options_come_after_the_obvious_first_argument() -> None:
    for item in (
        llmflow.LLM,
        llmflow.LLM.complete,
        llmflow.LLM.run,
        llmflow.Limiter,
        llmflow.Run,
    ):
        positional = [
            each.name
            for each in inspect.signature(item).parameters.values()
            if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        assert len([name for name in positional if name != "self"]) <= 1


def test_the_version_is_one() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{llmflow.__version__}"' in project
    assert f"## {llmflow.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_files_do_not_name_the_machine_they_were_written_on() -> None:
    for path in [*ROOT.glob("llmflow/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        assert not re.search(r"/(?:home|root|Users)/\w", path.read_text("utf-8")), path
