"""Which file counts, and what is said of one that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmflow import LLM
from llmflow.config import Config, files, find_config, forget_configs, load_config, use_config
from llmflow.errors import ConfigurationError
from tests.config.conftest import Write

FIVE = "[providers.openai]\nquota = { rpm = 5 }\n"
SIX = "[providers.openai]\nquota = { rpm = 6 }\n"


def rpm(config: Config) -> object:
    return config.settings("openai/x").quota.get("rpm")


def test_the_file_is_found_in_the_working_directory_and_above(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(FIVE)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_config() == path
    monkeypatch.chdir(deep)
    assert find_config() == path
    assert rpm(load_config()) == 5


def test_the_nearest_file_counts(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(FIVE)
    write(SIX, "a/llmflow.toml")
    monkeypatch.chdir(tmp_path / "a")
    assert rpm(load_config()) == 6


@pytest.mark.usefixtures("no_file")
def test_without_a_file_nothing_is_configured() -> None:
    assert load_config() == Config()
    assert load_config().settings("openai/x").quota_over(None) is None


def test_a_folder_of_that_name_is_passed_over(write: Write, tmp_path: Path) -> None:
    path = write(FIVE)
    (tmp_path / "a" / "llmflow.toml").mkdir(parents=True)
    assert find_config(tmp_path / "a") == path


def test_the_variable_wins_over_the_search_and_the_argument_over_the_variable(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("[providers.openai]\nquota = { rpm = 4 }\n")
    monkeypatch.setenv("LLMFLOW_CONFIG", str(write(FIVE, "five.toml")))
    assert rpm(load_config()) == 5
    assert rpm(load_config(write(SIX, "six.toml"))) == 6
    monkeypatch.setenv("LLMFLOW_CONFIG", "")
    assert rpm(load_config()) == 4


def test_a_program_chooses_the_configuration_for_a_block_or_for_good(write: Write) -> None:
    write(FIVE)
    with use_config(write(SIX, "six.toml")):
        assert rpm(load_config()) == 6
        with use_config(Config()):
            assert rpm(load_config()) is None
        assert rpm(load_config()) == 6
    assert rpm(load_config()) == 5
    use_config(Config())
    try:
        assert rpm(load_config()) is None
    finally:
        use_config(None)
    assert rpm(load_config()) == 5


def test_a_file_is_read_once_until_it_is_forgotten(write: Write) -> None:
    path = write(FIVE)
    first = load_config(path)
    write(SIX)
    assert load_config(path) is first
    forget_configs()
    assert rpm(load_config(path)) == 6


def test_threads_that_ask_at_once_get_the_same(write: Write) -> None:
    path, got, gate = write(FIVE), [], threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        got.append(load_config(path))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert all(each is got[0] for each in got)


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xef\xbb\xbf", b"[providers]\n"])
def test_a_file_without_settings_is_right(write: Write, content: bytes) -> None:
    assert not load_config(write(content)).providers


def test_a_byte_order_mark_does_no_harm(write: Write) -> None:
    assert rpm(load_config(write(b"\xef\xbb\xbf" + FIVE.encode()))) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[providers.openai]\nkey_env = "caf\xe9"\n', "llmflow.toml, line 2: not UTF-8"),
        (FIVE.encode("utf-16"), "llmflow.toml is UTF-16; save it as UTF-8"),
        (b"a = 1\n[providers.openai\n", "llmflow.toml, line 2, column 18: expected ']'"),
        (b"x = \n", "llmflow.toml, line 1, column 5: invalid value"),
        (b'x = "', "llmflow.toml, at its end: "),
        (b"[providers.openai.models.gpt-4.1*]\n", "stands in quotes, such as [providers."),
        (b"x = 1\nx = 2\n", "llmflow.toml, line 2, column 6: cannot overwrite a value"),
        (b"x = " + b"[" * 100_000, "llmflow.toml"),
        (b"#" * (2**20 + 1), "llmflow.toml is larger than a mebibyte"),
    ],
)
def test_what_is_no_toml_is_named_with_its_place(
    write: Write, content: bytes, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(write(content))
    assert str(caught.value).startswith("llmflow.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_that_is_not_there_is_named_with_who_named_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"^no.toml: no such configuration file"):
        load_config("no.toml")
    with pytest.raises(ConfigurationError, match="is a folder"):
        load_config(tmp_path)
    monkeypatch.setenv("LLMFLOW_CONFIG", "no.toml")
    with pytest.raises(ConfigurationError, match=r"no.toml \(LLMFLOW_CONFIG\): no such"):
        load_config()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_a_file_that_another_user_left_where_all_may_write_is_not_trusted(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(FIVE, "shared/llmflow.toml")
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert find_config(tmp_path / "shared") == path
    path.parent.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        find_config(tmp_path / "shared")
    assert rpm(load_config(path)) == 5


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_file_that_may_not_be_read_is_an_error(write: Write) -> None:
    write(FIVE).chmod(0)
    with pytest.raises(ConfigurationError, match=r"llmflow.toml cannot be read: Permission"):
        load_config()


def test_a_file_that_fails_while_it_is_read_is_an_error(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(FIVE)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"llmflow.toml cannot be read: Permission"):
        load_config(path)


@pytest.mark.parametrize("wrong", [5, "", ["llmflow.toml"], True])
def test_only_a_file_or_a_config_can_be_given(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="config must be a file's name or a Config"):
        LLM("openai/x", config=wrong)  # type: ignore[arg-type]


def test_a_deleted_working_directory_has_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert files.find_config() is None


def test_pydantic_is_imported_only_for_a_file_with_content(write: Write, tmp_path: Path) -> None:
    code = (
        "import sys, llmflow; llmflow.LLM('openai/x'); print('pydantic' in sys.modules); "
        "llmflow.LLM('openai/x', config=sys.argv[1]); print('pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(FIVE, "other.toml"))],
        env=dict(os.environ) | {"LLMFLOW_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.split() == ["False", "True"]
