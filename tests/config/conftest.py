"""What the tests of the configuration share: a folder of their own, and a file in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmflow.config import Config, files, forget_configs, load_config
from llmflow.limits.registry import forget_limiters

KEYS = ("OPENAI_API_KEY", "WORK_OPENAI_KEY", "GROQ_API_KEY")
Write = Callable[..., Path]
Load = Callable[[str], Config]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start in an empty folder, with no file read and no variable set."""
    for name in (*KEYS, "OPENAI_BASE_URL", files.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    forget_configs()
    forget_limiters()
    yield
    forget_configs()
    forget_limiters()


@pytest.fixture
def no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search find nothing, whatever lies above the folder of the tests."""
    monkeypatch.setattr(files, "FILE_NAME", "no-such-file-in-any-folder.toml")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a configuration file."""

    def put(text: str | bytes, name: str = "llmflow.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


@pytest.fixture
def load(write: Write) -> Load:
    """Return a function that loads a configuration from its text."""

    def read(text: str) -> Config:
        forget_configs()
        return load_config(write(text))

    return read
