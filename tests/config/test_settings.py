"""Which setting counts: code over file over provider, and the narrower table over the wider."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
from tenacity import stop_after_attempt

from llmflow import LLM, Quota, Retry, Timeout
from llmflow.batch import Batch
from llmflow.config import Config, Settings, use_config
from llmflow.config.schema import BatchTable, PriceTable, QuotaTable, RetryTable, TimeoutTable
from llmflow.errors import ConfigurationError, MissingKeyError
from llmflow.parts import OutputSchema
from llmflow.pricing import Price
from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider
from tests.config.conftest import Load

FILE = """
[providers.openai]
quota = { rpm = 500, tpm = "200k" }
retry = { attempts = 4 }
timeout = { connect = 7 }

[providers.openai.models."gpt-4.1*"]
quota = { rpm = 1_000, rpd = "10k" }
timeout = 60

[providers.openai.models."gpt-4*"]
quota = { rpm = 700, tpd = "1M" }

[providers.openai.models."gpt-4.1-mini"]
quota = { tpm = "none" }
retry = { wait_max = 5, total = 100.0 }

[providers.openai.keys.WORK_OPENAI_KEY]
quota = { rpm = 10_000 }
models."gpt-4.1-mini".quota = { rpm = 30_000 }

[providers.groq]
kind = "openai"
base_url = "https://groq.test/v1"
key_env = "GROQ_API_KEY"
quota = { rpm = 30 }

[providers.local]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"

[providers.cohere_chat]
kind = "litellm"
quota.rpm = 20
"""


@pytest.fixture
def config(load: Load) -> Config:
    return load(FILE)


def policy(llm: LLM) -> tuple[Retry, Timeout]:
    return llm._mode.retry, llm._mode.timeout


def test_the_fields_of_the_file_are_those_of_the_value_objects() -> None:
    def names(kind: Any) -> set[str]:
        return {each.name for each in dataclasses.fields(kind)}

    assert set(QuotaTable.model_fields) == names(Quota)
    assert set(TimeoutTable.model_fields) == names(Timeout)
    assert set(RetryTable.model_fields) == names(Retry) - {"stop", "wait", "retry"}
    assert set(PriceTable.model_fields) == names(Price) - {"longer"}


@pytest.mark.parametrize(
    ("model", "quota"),
    [
        ("openai/o3", {"rpm": 500, "tpm": 200_000}),
        ("openai/gpt-4o", {"rpm": 700, "tpm": 200_000, "tpd": 1e6}),
        ("openai/gpt-4.1", {"rpm": 1000, "tpm": 200_000, "tpd": 1e6, "rpd": 10_000}),
        ("openai/gpt-4.1-mini", {"rpm": 1000, "tpm": None, "tpd": 1e6, "rpd": 10_000}),
        ("groq/any", {"rpm": 30}),
        ("cohere_chat/command-r", {"rpm": 20}),
        ("sim/demo", {}),
        ("openai/", {}),
        ("openai", {}),
    ],
)
def test_the_most_specific_pattern_wins_for_each_setting(
    config: Config, model: str, quota: dict[str, float]
) -> None:
    assert config.settings(model).quota == quota


def test_the_order_of_the_patterns_does_not_matter(load: Load) -> None:
    tables = ['"*" = {quota.rpm = 1}', '"gpt-*" = {quota.rpm = 2}', '"gpt-4" = {quota.rpm = 3}']
    for order in (tables, tables[::-1]):
        config = load("[providers.openai.models]\n" + "\n".join(order))
        found = [
            config.settings(f"openai/{name}").quota["rpm"] for name in ("o1", "gpt-5", "gpt-4")
        ]
        assert found == [1, 2, 3]


def test_a_keys_limits_count_where_that_key_is_used(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.settings("openai/o3", api_key="work").quota["rpm"] == 500
    monkeypatch.setenv("WORK_OPENAI_KEY", "work")
    assert config.settings("openai/o3", api_key="work").quota["rpm"] == 10_000
    assert config.settings("openai/o3", api_key="work").quota["tpm"] == 200_000
    assert config.settings("openai/gpt-4.1-mini", api_key="work").quota["rpm"] == 30_000
    assert config.settings("openai/o3", api_key="other").quota["rpm"] == 500
    assert config.settings("openai/o3").quota["rpm"] == 500


def test_a_keys_limits_count_where_the_provider_names_its_variable(load: Load) -> None:
    keys = "[providers.openai.keys.{}]\nquota = {{ rpm = 9 }}\n"
    named = load(
        "[providers.openai]\nkey_env = 'WORK_OPENAI_KEY'\n" + keys.format("WORK_OPENAI_KEY")
    )
    assert named.settings("openai/x").quota == {"rpm": 9}
    by_default = load(keys.format("OPENAI_API_KEY"))
    assert by_default.settings("openai/x").quota == {"rpm": 9}
    assert load(keys.format("WORK_OPENAI_KEY")).settings("openai/x").quota == {}


def test_an_output_method_is_that_of_the_narrowest_table_or_of_code(load: Load) -> None:
    config = load(
        "[providers.openai]\noutput_method = 'json_schema'\n"
        "[providers.openai.models.'gpt-4o*']\noutput_method = 'tool'\n"
    )
    output = OutputSchema(schema={"type": "object", "properties": {"n": {"type": "integer"}}})

    def method(model: str, **options: Any) -> str:
        provider: Any = LLM(model, config=config, **options).provider
        return str(provider.outputs.chosen(output).method)

    assert method("openai/gpt-5") == "json_schema"
    assert method("openai/gpt-4o") == "tool"
    assert method("openai/gpt-4o", output_method="json_schema") == "json_schema"
    assert config.settings("openai/gpt-4o").origins["output_method"] == "llmflow.toml, line 4"


def test_a_method_that_a_model_does_not_know_is_refused_with_its_place(load: Load) -> None:
    config = load("[providers.anthropic]\n\noutput_method = 'json_object'")
    with pytest.raises(ConfigurationError, match=r"output_method .* \(llmflow.toml, line 3\)$"):
        LLM("anthropic/claude-opus-5", config=config)


def test_an_llm_takes_from_the_file_what_it_is_not_given(config: Config) -> None:
    llm = LLM("openai/gpt-4.1-mini", config=config)
    assert llm.limiter.quota == Quota(rpm=1000, tpd="1M", rpd="10k")
    assert policy(llm) == (
        Retry(attempts=4, wait_max=5, total=100.0),
        dataclasses.replace(Timeout(), connect=7, total=60),
    )


def test_what_is_given_in_code_wins(config: Config) -> None:
    llm = LLM(
        "openai/gpt-4.1-mini",
        quota=Quota(rpm=3),
        retry=Retry(attempts=2),
        timeout=Timeout(total=9),
        config=config,
    )
    assert llm.limiter.quota == Quota(rpm=3)
    assert policy(llm) == (Retry(attempts=2), Timeout(total=9))


def test_a_number_for_the_timeout_is_the_total_alone(config: Config) -> None:
    llm = LLM("openai/gpt-4.1", timeout=9, config=config)
    assert policy(llm)[1] == dataclasses.replace(Timeout(), connect=7, total=9)


def test_a_file_that_lies_there_is_used_without_being_named(config: Config) -> None:
    assert LLM("openai/o3").limiter.quota == Quota(rpm=500, tpm="200k")
    with use_config(Config()):
        assert LLM("openai/o4").limiter.quota == Quota()


def test_the_file_stands_above_what_a_provider_assumes_limit_by_limit(load: Load) -> None:
    load("[providers.sim]\nquota = { rpm = 50 }\n")
    assert LLM("sim/one").limiter.quota == Quota(rpm=50, tpm=100_000, burst_seconds=1)


def test_a_quota_given_in_code_stays_when_the_next_object_asks_without(config: Config) -> None:
    first = LLM("openai/o3", quota=Quota(rpm=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = LLM("openai/o3")
    assert first.limiter is second.limiter
    assert second.limiter.quota == Quota(rpm=3)


def test_numbers_of_the_file_take_the_place_of_a_providers_objects() -> None:
    default = Retry(stop=stop_after_attempt(9), wait_max=3)
    settings = Settings(model="a/b", target="a/b", retry={"attempts": 2})
    assert settings.retry_over(default) == Retry(attempts=2, wait_max=3)
    assert settings.retry_over(default).stop is None
    untouched = Settings(model="a/b", target="a/b", retry={"wait_max": 2})
    assert untouched.retry_over(default).stop is default.stop


def test_a_provider_object_is_taken_as_it_is(load: Load) -> None:
    load("[providers.scripted]\nkind = 'openai'\nquota = { rpm = 3 }\n")
    assert LLM(ScriptedProvider(["x"])).limiter.quota == Quota()


def test_a_provider_of_ones_own_keeps_its_name(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "groq-key")
    llm = LLM("groq/llama-3.3-70b")
    assert llm.model == "groq/llama-3.3-70b"
    assert llm.provider.base_url == "https://groq.test/v1"  # type: ignore[attr-defined]
    assert llm.limiter is not LLM("openai/llama-3.3-70b").limiter


def test_litellms_providers_are_asked_for_by_their_own_names(config: Config) -> None:
    assert LLM("cohere_chat/command-r").model == "litellm/cohere_chat/command-r"


def header(llm: LLM) -> str | None:
    from llmflow.types import Request

    wire = llm.provider.encode(Request(model="x", messages=()))  # type: ignore[attr-defined]
    value: str | None = wire.headers.get("Authorization")
    return value


def test_the_named_variable_holds_the_key(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openais")
    monkeypatch.setenv("GROQ_API_KEY", "groqs")
    assert header(LLM("groq/x")) == "Bearer groqs"
    assert header(LLM("groq/x", api_key="mine")) == "Bearer mine"
    assert header(LLM("openai/x")) == "Bearer openais"


def test_openais_key_is_sent_to_no_server_of_ones_own(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openais")
    assert header(LLM("local/x")) is None
    assert header(LLM("groq/x")) is None


def test_a_missing_key_is_an_error_before_the_first_call_and_names_its_variable(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "openais")
    llm = LLM("groq/x")
    with pytest.raises(MissingKeyError, match=r"GROQ_API_KEY \(llmflow.toml, line 25\)$"):
        llm.prepare()
    LLM("groq/x", api_key="mine").prepare()
    LLM("local/x").prepare()


async def test_a_call_goes_where_the_file_says(load: Load) -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        load(f"[providers.mine]\nkind = 'openai'\nbase_url = '{sim.url}'\n")
        response = await LLM("mine/any").complete("Summarize: The tide rises. It falls.")
        assert response.provider == "mine"
        assert sim.stats().answered == 1


def test_every_setting_tells_where_it_comes_from(config: Config) -> None:
    origins = config.settings("openai/gpt-4.1-mini").origins
    assert origins["quota.rpm"] == "llmflow.toml, line 8"
    assert origins["quota.tpm"] == "llmflow.toml, line 15"
    assert origins["timeout.total"] == "llmflow.toml, line 9"
    assert "retry.wait_initial" not in origins
    assert config.source == Path("llmflow.toml").absolute()


PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not installed")
def test_the_example_of_the_documents_is_right(load: Load) -> None:
    example = PAGE.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    config = load(example)
    assert config.settings("openai/gpt-6-luna").quota == {"rpm": 5000, "tpm": 2e6}
    assert config.settings("openai/gpt-6-sol").quota == {"rpm": 1000, "tpm": 200_000}
    assert config.settings("groq/openai/gpt-oss-20b").quota == {"rpm": 30, "rpd": 14_400}
    assert config.settings("local/any").keyless


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not installed")
def test_the_documents_name_every_setting() -> None:
    text = PAGE.read_text("utf-8")
    for name in (
        name for kind in (QuotaTable, RetryTable, TimeoutTable) for name in kind.model_fields
    ):
        assert f"`{name}`" in text


class TestPrices:
    FILE = """
[providers.openai]
price = { cached_input = 0.05 }

[providers.openai.models."gpt-4.1*"]
price = { input = 0.3, batch_input = 0.1 }

[providers.openai.models."gpt-4.1-mini"]
price = { input = 0.2, cached_input = "none" }
"""
    PUBLIC = Price(input=0.4, output=1.6, cached_input=0.1)

    def test_the_narrower_table_wins_for_each_amount(self, load: Load) -> None:
        price = load(self.FILE).settings("openai/gpt-4.1-mini").price_over(self.PUBLIC)
        assert price == Price(input=0.2, output=1.6, batch_input=0.1)

    def test_a_model_that_the_file_does_not_name_costs_its_public_price(self, load: Load) -> None:
        assert load(self.FILE).settings("anthropic/claude").price_over(self.PUBLIC) is self.PUBLIC

    def test_a_configured_price_is_one_for_prompts_of_all_lengths(self, load: Load) -> None:
        public = Price(input=1, output=2, longer=(200_000, Price(input=2, output=3)))
        settings = load(self.FILE).settings
        assert settings("openai/gpt-4.1").price_over(public) == Price(
            input=0.3, output=2, cached_input=0.05, batch_input=0.1
        )
        assert settings("openai/o3").price_over(public) == Price(
            input=1, output=2, cached_input=0.05, longer=public.longer
        )

    def test_half_a_price_of_an_unknown_model_is_none(self, load: Load) -> None:
        settings = load(self.FILE).settings("openai/gpt-4.1-of-mine")
        assert settings.price_over(None) is None
        message = r"needs output, too \(llmflow.toml, line 3\)"
        with pytest.raises(ConfigurationError, match=message):
            settings.check_price(None)

    def test_a_whole_price_makes_an_unknown_model_known(self, load: Load) -> None:
        settings = load("[providers.openai]\nprice = { input = 0, output = 0 }").settings
        price = settings("openai/mine").price_over(None)
        assert price is not None
        assert price.is_free


def test_batch_settings_come_from_the_widest_table_to_the_narrowest(load: Load) -> None:
    config = load(
        """
        [batch]
        poll = 30
        enqueued_tokens = "2M"
        [providers.openai.batch]
        quiet = 1
        keep_files = true
        [providers.openai.models."gpt*".batch]
        poll = 5
        """
    )
    wide, narrow = config.settings("anthropic/x"), config.settings("openai/gpt-4.1")
    assert Batch(**wide.batch) == Batch(poll=30, enqueued_tokens=2e6)
    assert Batch(**narrow.batch) == Batch(poll=5, quiet=1, keep_files=True, enqueued_tokens=2e6)
    assert narrow.origins["batch.poll"].endswith("line 9")


def test_the_file_can_say_all_that_a_batch_has() -> None:
    assert set(BatchTable.model_fields) == {each.name for each in dataclasses.fields(Batch)}
