"""`LLMFLOW_SHARE` and `share` in llmflow.toml on the command line."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Result, Run, write_rows

TOML = """
[providers.openai]
quota = { rpm = 600, share = "1/2" }
"""
MODEL = "openai/gpt-6-luna"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "llmflow.toml"
    path.write_text(TOML)
    monkeypatch.setenv("LLMFLOW_CONFIG", str(path))
    return path


def test_quotas_shows_the_share_of_the_file_and_what_is_left_of_a_limit(
    run: Run, config: Path
) -> None:
    code, out, _ = parts(run("quotas", "--model", MODEL))
    assert code == 0
    assert "600 (llmflow.toml, line 3)" in out
    assert "300" in out
    assert "a run uses 1/2 of each limit (llmflow.toml, line 3)" in out


def test_the_variable_wins_over_the_file(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    code, out, _ = parts(run("quotas", "--model", MODEL, "--json"))
    assert code == 0
    (model,) = orjson.loads(out)["models"]
    assert (model["share"], model["share_by"]) == (0.25, "LLMFLOW_SHARE")
    assert model["dimensions"]["rpm"]["configured"] == 600
    assert model["dimensions"]["rpm"]["effective"] == 150


def test_config_show_says_where_the_share_is_from(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = parts(run("config", "show", "--model", MODEL))
    assert "llmflow.toml, line 3" in next(each for each in out.splitlines() if "share" in each)
    monkeypatch.setenv("LLMFLOW_SHARE", "0.25")
    _, out, _ = parts(run("config", "show", "--model", MODEL))
    assert "LLMFLOW_SHARE" in next(each for each in out.splitlines() if "quota.share" in each)


def test_config_show_still_says_that_limits_are_learned(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    _, out, _ = parts(run("config", "show", "--model", MODEL))
    assert "learned from the provider's replies" in out
    assert "quota.share" in out


@pytest.mark.parametrize("given", [(), ("--rpm", "1200")])
def test_a_plan_reckons_with_the_share(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    write_rows(Path("in.jsonl"), 10)
    options = ("--prompt", "Summarize: {text}", "--model", "sim/demo", "--json")
    code, out, _ = parts(run("plan", "in.jsonl", *options, *given))
    assert code == 0
    assert (300 if given else 150) in [each["limit"] for each in _paces(orjson.loads(out))]
    _, out, _ = parts(run("plan", "in.jsonl", *options[:-1], *given))
    assert "a share of 1/4" in out


def parts(result: Result) -> tuple[int, str, str]:
    return result.code, result.out, result.err


def _paces(plan: object) -> list[dict[str, object]]:
    """Return everything in a plan that has a limit."""
    found: list[dict[str, object]] = []
    todo = [plan]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            found += [each] if "limit" in each else []
            todo += each.values()
        elif isinstance(each, list):
            todo += each
    return found


@pytest.mark.parametrize("said", ["0", "2/1", "1/0", "a quarter", "1.5", "nan"])
@pytest.mark.parametrize("command", ["run", "plan", "quotas", "config"])
def test_a_wrong_share_is_one_line_with_the_remedy(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str, command: str
) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", said)
    write_rows(Path("in.jsonl"), 2)
    rows = ("in.jsonl", "--prompt", "Summarize: {text}", "--model", MODEL)
    words = {
        "run": ("run", *rows, "-o", "out.jsonl"),
        "plan": ("plan", *rows),
        "quotas": ("quotas", "--model", MODEL),
        "config": ("config", "show", "--model", MODEL),
    }
    code, out, err = parts(run(*words[command]))
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert "LLMFLOW_SHARE must be a part of the whole" in line
    assert "1/4" in line
    assert said in line


@pytest.mark.parametrize("said", ["0", '"2/1"', '"1/0"', '"text"', "1.5", "nan", "true"])
def test_a_wrong_share_in_the_file_is_named_with_its_line(
    run: Run, config: Path, said: str
) -> None:
    config.write_text(TOML.replace('"1/2"', said))
    code, _, err = parts(run("config", "show", "--model", MODEL))
    assert code == 2
    assert "line 3" in err
    assert "share" in err
    assert "Traceback" not in err
