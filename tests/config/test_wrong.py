"""Everything that is wrong is named at once: line, place, and what would be right."""

from __future__ import annotations

import traceback

import pytest

from llmflow.config import load_config
from llmflow.config.problems import dotted, is_variable, lines_of
from llmflow.errors import ConfigurationError
from tests.config.conftest import Load, Write

SECRETS = ("sk-abcdef1234567890", "gsk_abcdefgh12345678", "9f8e7d6c5b4a39281706f5e4d3c2b1a0")


def problem(load: Load, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quota = { rmp = 5 }", "providers.openai.quota.rmp: unknown key; did you mean 'rpm'?"),
        ("qota = { rpm = 5 }", "providers.openai.qota: unknown key; did you mean 'quota'?"),
        ("base-url = 'http://x'", "unknown key; did you mean 'base_url'?"),
        ("rpm = 500", "it belongs into quota: quota = { rpm = ... }"),
        ("attempts = 5", "it belongs into retry: retry = { attempts = ... }"),
        ("price = { input = -1 }", "price.input: input must be a number of at least 0, in US"),
        ("price = { output = 'cheap' }", "output must be a number of at least 0, in US dollars"),
        ("price = { input = 'none' }", "input must be a number of at least 0"),
        ("price = { inptu = 1 }", "unknown key; did you mean 'input'?"),
        ("price = 5", "must be a table, such as { input = 0.4, output = 1.6 }"),
        ("colour = 'red'", "unknown key; known are quota, retry, timeout, price,"),
        ("quota = { rpm = 'lots' }", "such as 500, 10k or 2M; got 'lots'"),
        ("quota = { rpm = 0 }", "rpm must be a number above 0"),
        ("quota = { rpm = nan }", "rpm must be a number above 0"),
        ("quota = { rpm = true }", "rpm must be a number, not true or false"),
        ("quota = { rpm = [5] }", "rpm must be a number above 0"),
        ("quota = { max_concurrent = 1.5 }", "must be a whole number of at least 1"),
        ("quota = 500", "providers.openai.quota: must be a table, such as { rpm = 500 }"),
        ("retry = { attempts = 0 }", "attempts must be at least 1"),
        ("retry = { attempts = 'none' }", "attempts must be a whole number"),
        ("retry = { wait_max = '60' }", "wait_max must be seconds"),
        ("retry = { stop = 3 }", "providers.openai.retry.stop: unknown key"),
        ("timeout = 0", "providers.openai.timeout.total: timeout total must be seconds above 0"),
        ("timeout = 'long'", "must be a table, such as 300 or { connect = 10, total = 300 }"),
        ("timeout = { conect = 1 }", "did you mean 'connect'?"),
        ("base_url = 'host/v1'", "must be an address such as https://host/v1; got 'host/v1'"),
        ("base_url = 'http://host:port'", "must be an address"),
        ("base_url = 5", "providers.openai.base_url: must be a text in quotes"),
        ("base_url = 'https://h/v1?key=x'", "must hold no user, password, query or fragment"),
        ("key_env = '$OPENAI_API_KEY'", "must be the name of an environment variable"),
        ("kind = 'anthropic'", "'openai' is a kind itself"),
        ("models = { x = { kind = 'openai' } }", "providers.openai.models.x.kind: unknown key"),
        ("keys = { A_KEY = { timeout = 5 } }", "providers.openai.keys.A_KEY.timeout: unknown key"),
    ],
)
def test_a_wrong_setting_is_named_with_line_place_and_remedy(
    load: Load, text: str, message: str
) -> None:
    said = problem(load, f"# a comment\n[providers.openai]\n{text}\n")
    assert said.startswith("llmflow.toml, line 3: providers.openai.")
    assert message in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[provider.openai]", "line 1: provider: unknown key; did you mean 'providers'?"),
        ("[openai]", "line 1: openai: unknown key; did you mean [providers.openai]?"),
        ("providers = 5", "line 1: providers: must be a table, such as [providers]"),
        ("[providers]\nopenai = 5", "line 2: providers.openai: must be a table"),
        ("[providers.opnai]", "no such provider; did you mean 'openai'?"),
        ("[providers.acme]", 'needs a kind, such as kind = "openai"'),
        ("[providers.acme]\nkind = 'opnai'", "line 2: providers.acme.kind: no such kind: 'opnai'"),
        ("[providers.'a/b']\nkind = 'openai'", "a provider's name has letters, digits"),
        ("[providers.openai.models.gpt-4.1]\nquota.rpm = 5", '[providers.openai.models."gpt-4.1"]'),
        ("[providers.openai.models.a.b.c]\n", '[providers.openai.models."a.b.c"]'),
    ],
)
def test_a_wrong_table_is_named_with_the_right_one(load: Load, text: str, message: str) -> None:
    assert message in problem(load, text)


def test_all_problems_are_named_at_once_in_the_order_of_their_lines(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(
            "[providers.opnai]\n"
            "[providers.openai]\n"
            "quota = { rmp = 5, tpm = 'x' }\n"
            "\n"
            "[providers.openai.models.'o*'.retry]\n"
            "attempts = 0\n"
        )
    first, *rest = str(caught.value).splitlines()
    assert first == "llmflow.toml has 4 problems:"
    assert [line.split(":")[0] for line in rest] == ["- line 1", "- line 3", "- line 3", "- line 6"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "text",
    [
        "[providers.openai]\nkey_env = '{}'",
        "[providers.openai]\napi_key = '{}'",
        "[providers.openai]\ntoken = '{}'",
        "[providers.openai.keys.{}]\nquota = 5",
        "[providers.openai]\nkeys = {{ '{}' = {{ quota = {{ rmp = 5 }} }} }}",
        "[providers.openai]\nbase_url = 'https://me:{}@host/v1'",
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(
    write: Write, text: str, secret: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_config(write(text.format(secret)))
    assert "environment variable" in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_names_of_variables_are_told_from_keys() -> None:
    good = ("OPENAI_API_KEY", "WORK_OPENAI_KEY", "key", "Team2_Key", "HF_TOKEN")
    assert all(is_variable(name) for name in good)
    assert not any(is_variable(name) for name in (*SECRETS, "", "$KEY", "MY KEY", "1KEY"))


def test_control_characters_of_the_file_reach_no_terminal(load: Load) -> None:
    said = problem(load, '[providers.openai]\nquota = { "x\\u001b[31m" = 5 }')
    assert "\x1b" not in said


def test_lines_are_found_of_tables_keys_and_inline_tables() -> None:
    text = "a.b = 1\n\n[t.'x.y']  # comment\nq = { r = 1 }\nlist = [\n  1,\n]\n[[u]]\nv = 1\n"
    lines = lines_of(text)
    assert lines[("a", "b")] == 1
    assert lines[("t",)] == lines[("t", "x.y")] == 3
    assert lines[("t", "x.y", "q", "r")] == 4
    assert lines[("u", "v")] == 9


def test_a_place_is_written_as_in_the_file() -> None:
    assert dotted(("providers", "openai", "models", "o*")) == 'providers.openai.models."o*"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[journal]\nstor = 'full'", "line 2: journal.stor: unknown key; did you mean 'store'?"),
        ("[journal]\nstore = 'answer'", "journal.store: no such choice: 'answer'; did you mean"),
        ("[journal]\nstore = 'x'", "no such choice: 'x'; choices are full, answers, off"),
        ("[providers.openai]\noutput_method = 'tol'", "choice: 'tol'; did you mean 'tool'?"),
        ("[journal]\ndurability = 'powr'", "no such choice: 'powr'; did you mean 'power'?"),
        ("[journal]\nstore = true", "journal.store: must be a text in quotes"),
        ("[journal]\ndir = ' '", "journal.dir: must be a folder's name"),
        ("[journal]\ndir = '~no-such-user-here/runs'", "journal.dir: there is no home folder for"),
        ("[journal]\nbudget = 5", "journal.budget: unknown key; known are dir, store, durability"),
        ("journal = 'runs'", "journal: must be a table, such as { store = "),
        (
            "store = 'full'",
            "store: unknown key; it belongs into journal: journal = { store = ... }",
        ),
        ("[jurnal]", "jurnal: unknown key; did you mean 'journal'?"),
    ],
)
def test_a_wrong_journal_is_named(load: Load, text: str, message: str) -> None:
    assert message in problem(load, text)
