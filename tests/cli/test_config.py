"""``llmflow config``, and what ``llmflow run`` takes from the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from llmflow.config import files, forget_configs
from llmflow.pricing import PRICES_AS_OF
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, rows_of, write_rows

KEY = "sk-abcdef1234567890"
FILE = """\
[providers.openai]
key_env = "OPENAI_API_KEY"
quota = { rpm = 500 }

[providers.openai.models."gpt-4.1*"]
quota = { rpm = "none", tpm = "2M" }

[providers.local]
kind = "openai"
base_url = "http://127.0.0.1:8000/v1"
"""


@pytest.fixture(autouse=True)
def searching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMFLOW_CONFIG", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    forget_configs()


def put(text: str, name: str = "llmflow.toml") -> str:
    Path(name).write_text(text)
    return name


def shown(run: Run, *options: str) -> dict[str, dict[str, dict[str, object]]]:
    found = orjson.loads(run("config", "show", "--json", *options).out)
    models: dict[str, dict[str, dict[str, object]]] = found["models"]
    return models


class TestCheck:
    def test_a_right_file_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        put(FILE)
        result = run("config", "check")
        assert (result.code, result.out, result.err) == (0, "llmflow.toml is valid\n", "")

    def test_a_key_that_is_not_set_is_noted(self, run: Run) -> None:
        result = run("config", "check", "--config", put(FILE, "other.toml"))
        assert result.code == 0
        assert result.out.splitlines() == [
            "other.toml is valid",
            "note: the environment variable OPENAI_API_KEY is not set",
        ]

    def test_one_problem_takes_one_line(self, run: Run) -> None:
        put("[providers.openai]\nquota = { rmp = 5 }\n")
        result = run("config", "check")
        assert result.code == 2
        assert result.error == (
            "llmflow.toml, line 2: providers.openai.quota.rmp: unknown key; did you mean 'rpm'?"
        )

    def test_several_take_a_line_each(self, run: Run) -> None:
        put("[providers.openai]\nquota = { rmp = 5 }\nkey_env = '" + KEY + "'\n")
        result = run("config", "check")
        assert result.code == 2
        first, *rest = result.err.splitlines()
        assert first == "llmflow: error: llmflow.toml has 2 problems:"
        assert [line[:9] for line in rest] == ["- line 2:", "- line 3:"]
        assert KEY not in result.err

    def test_half_a_price_of_an_unknown_model_is_an_error(self, run: Run) -> None:
        put('[providers.openai.models]\nmine.price = { input = 1 }\n"o*".price = { input = 1 }\n')
        result = run("config", "check")
        assert result.code == 2
        assert "no public price of openai/mine is known" in result.error
        assert "needs output, too (llmflow.toml, line 2)" in result.error

    def test_no_file_is_an_error(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "FILE_NAME", "no-such-file-in-any-folder.toml")
        assert "there is no llmflow.toml" in run("config", "check").error


class TestShow:
    def test_every_setting_of_a_model_is_shown_with_its_origin(self, run: Run) -> None:
        put(FILE)
        rows = shown(run, "--model", "openai/gpt-4.1-mini")["openai/gpt-4.1-mini"]
        assert rows["quota.rpm"] == {"value": None, "from": "llmflow.toml, line 6"}
        assert rows["quota.tpm"] == {"value": 2e6, "from": "llmflow.toml, line 6"}
        assert rows["retry.attempts"] == {"value": 6, "from": "default"}
        assert rows["base_url"] == {"value": "https://api.openai.com/v1", "from": "default"}

    def test_a_price_is_shown_with_its_day_or_its_line(self, run: Run) -> None:
        put(FILE + "price = { input = 0, output = 0 }\n")
        rows = shown(run, "--model", "openai/gpt-4.1-mini")["openai/gpt-4.1-mini"]
        assert rows["price.input"] == {"value": 0.4, "from": f"public price of {PRICES_AS_OF}"}
        assert "price.longer" not in rows
        rows = shown(run, "--model", "local/any")["local/any"]
        assert rows["price.output"] == {"value": 0, "from": "llmflow.toml, line 11"}
        rows = shown(run, "--model", "openai/gpt-none")["openai/gpt-none"]
        assert rows["price"] == {"value": "not known", "from": "default"}
        rows = shown(run, "--model", "litellm/gemini/gemini-2.5-pro")
        assert "above 200,000 tokens: $2.5 in" in str(rows)

    def test_without_a_model_what_the_file_says_is_shown(self, run: Run) -> None:
        put(FILE)
        rows = shown(run)
        assert list(rows) == ["openai/*", "openai/gpt-4.1*", "local/*"]
        assert list(rows["openai/*"]) == ["key", "quota.rpm"]
        assert rows["local/*"]["kind"] == {"value": "openai", "from": "llmflow.toml, line 9"}
        assert str(rows["local/*"]["key"]["value"]).startswith("none is sent")

    def test_a_key_is_never_shown(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        put(FILE)
        assert "not set (OPENAI_API_KEY)" in run("config", "show").out
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        result = run("config", "show")
        assert " set (OPENAI_API_KEY)" in result.out
        assert "not set" not in result.out
        assert KEY not in result.out

    def test_an_address_of_the_environment_is_told(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
        put(FILE)
        row = shown(run, "--model", "openai/o3")["openai/o3"]["base_url"]
        assert row == {"value": "http://elsewhere/v1", "from": "OPENAI_BASE_URL"}

    def test_without_a_file_a_model_has_its_defaults(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "FILE_NAME", "no-such-file-in-any-folder.toml")
        out = run("config", "show", "--model", "sim/demo").out
        assert out.startswith("configuration: no file here or above\n")
        assert "none is needed" in out

    def test_numbers_are_shown_as_people_write_them(self, run: Run) -> None:
        put(FILE)
        out = run("config", "show", "--model", "openai/gpt-4.1").out
        line = next(each for each in out.splitlines() if "quota.tpm" in each)
        assert line.split() == ["quota.tpm", "2,000,000", "llmflow.toml,", "line", "6"]

    def test_litellm_looks_for_its_own_keys(self, run: Run) -> None:
        put("[providers.cohere_chat]\nkind = 'litellm'\nquota.rpm = 5\n")
        rows = shown(run)["cohere_chat/*"]
        assert rows["key"]["value"] == "the variable that litellm knows"

    def test_a_model_that_cannot_be_is_one_line(self, run: Run) -> None:
        put(FILE)
        assert "write openai/MODEL" in run("config", "show", "--model", "openai/").error


class TestJournal:
    FILE = "[journal]\ndir = 'runs'\nstore = 'off'\n"

    def test_show_says_where_runs_are_kept(self, run: Run) -> None:
        put(self.FILE)
        lines = run("config", "show").out.splitlines()
        assert lines[2] == "journal"
        assert lines[3].split() == [
            "dir",
            str(Path("runs").absolute()),
            "llmflow.toml,",
            "line",
            "2",
        ]
        assert lines[4].split() == ["store", "off", "llmflow.toml,", "line", "3"]
        told = orjson.loads(run("config", "show", "--json").out)
        assert told["journal"]["store"] == {"value": "off", "from": "llmflow.toml, line 3"}

    def test_check_finds_what_is_wrong_with_it(self, run: Run) -> None:
        put(self.FILE)
        assert run("config", "check").code == 0
        put(self.FILE.replace("off", "of"))
        forget_configs()
        result = run("config", "check")
        assert result.code == 2
        assert "line 3" in result.error
        assert "did you mean 'off'?" in result.error


class TestRun:
    def run_it(self, run: Run, *options: str) -> dict[str, object]:
        result = run("run", "in.jsonl", "--prompt", "{text}", "-o", "out.jsonl", "--json", *options)
        assert result.code == 0, result.err
        assert len(rows_of("out.jsonl")) == 3
        report: dict[str, object] = orjson.loads(result.out)
        return report

    def test_a_provider_of_the_file_answers_and_its_quota_holds(
        self, run: Run, simulator: Callable[..., SimulatorThread]
    ) -> None:
        write_rows("in.jsonl", 3)
        quota = 'quota = { rpm = 6000, tpm = "1M" }'
        table = f"[providers.mine]\nkind = 'openai'\nbase_url = '{simulator().url}'\n{quota}\n"
        report = self.run_it(run, "--model", "mine/x", "--config", put(table, "other.toml"))
        assert report["model"] == "mine/x"
        limits = report["limits"]
        assert isinstance(limits, dict)
        assert (limits["rpm"], limits["tpm"]) == (6000, 1e6)

    def test_an_option_takes_the_place_of_its_own_limit_alone(
        self, run: Run, simulator: Callable[..., SimulatorThread]
    ) -> None:
        write_rows("in.jsonl", 3)
        put("[providers.openai]\nquota = { rpm = 6000, tpm = '1M' }\n")
        report = self.run_it(
            run, "--model", "openai/x", "--base-url", simulator().url, "--rpm", "5k"
        )
        limits = report["limits"]
        assert isinstance(limits, dict)
        assert (limits["rpm"], limits["tpm"]) == (5000, 1e6)

    def test_a_wrong_file_stops_the_run_before_anything_is_asked(self, run: Run) -> None:
        write_rows("in.jsonl", 3)
        put("[providers.openai]\nqota = {}\n")
        result = run("run", "in.jsonl", "--prompt", "{text}", "-o", "o.jsonl", "--model", "sim/x")
        assert result.code == 2
        assert "did you mean 'quota'?" in result.error
        assert not Path("o.jsonl").exists()
