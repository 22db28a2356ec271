"""A provider on the base class for HTTP, and objects that are no provider."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

import llmflow.provider_registry
from llmflow.errors import (
    BadReplyError,
    BillingError,
    ConfigurationError,
    MissingKeyError,
    QuotaExhaustedError,
    RateLimitError,
)
from llmflow.provider import batch_api_of, checked
from llmflow.provider_registry import provider_for
from llmflow.rate_limits import RATE_LIMITS
from llmflow.types import Charge, Quota, QuotaSignal, Response, Usage
from llmflow_providers.base import HTTPProvider, LimitHeaders
from llmflow_providers.error_rules import ErrorTable
from tests.providers.batching import reply


class AcmeProvider(HTTPProvider):
    name = "acme"
    key_variable, url_variable = "ACME_API_KEY", "ACME_BASE_URL"
    official_url = "https://api.acme.test"
    path = "/ask"
    answer = "an answer"
    error_table = ErrorTable(by_code={"no_credit": BillingError})
    limits = (
        LimitHeaders.named("itpm", "x-acme-{}-tokens"),
        LimitHeaders.named("rpd", "x-acme-{}-requests-day"),
    )

    def understand(self, data: Any, reply: Any) -> Response:
        return Response(
            text=data["answer"], usage=Usage(), finish_reason="stop", model="m", provider="acme"
        )

    def encode(self, request: Any) -> Any: ...

    def reserve(self, request: Any) -> Charge: ...  # type: ignore[empty-body]

    def settle(self, charge: Charge, usage: Usage) -> Charge: ...  # type: ignore[empty-body]


@pytest.fixture
def acme() -> AcmeProvider:
    return AcmeProvider("m", api_key="sk-acme")


def test_a_subclass_is_a_provider(acme: AcmeProvider) -> None:
    assert checked(acme) is acme
    assert batch_api_of(acme) is None
    assert "sk-acme" not in repr((acme, acme.domain))
    assert acme.call("GET", "/x").headers["Authorization"] == "Bearer sk-acme"


def test_a_subclass_that_cannot_read_answers_is_refused_before_it_asks() -> None:
    """It would find out with the first answer, which was paid for by then."""

    class Unfinished(HTTPProvider):
        name = "unfinished"

    with pytest.raises(TypeError, match=r"abstract method '?understand"):
        Unfinished("m", api_key="sk-acme")  # type: ignore[abstract]


def test_the_address_and_the_key_are_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACME_BASE_URL", "http://localhost:1/")
    monkeypatch.setenv("ACME_API_KEY", "sk-1")
    found = AcmeProvider("m")
    assert (found.base_url, found.key) == ("http://localhost:1", "sk-1")


def test_only_the_providers_own_server_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    AcmeProvider("m", base_url="http://localhost:1").prepare()
    with pytest.raises(MissingKeyError, match="ACME_API_KEY"):
        AcmeProvider("m").prepare()


def test_its_own_table_comes_before_the_rules_for_all(acme: AcmeProvider) -> None:
    with pytest.raises(BillingError):
        acme.decode(reply({"error": {"code": "no_credit", "message": "?"}}, 400))
    with pytest.raises(RateLimitError) as caught:
        acme.decode(reply({"error": "50 input tokens per minute"}, 429, retry_after="7"))
    assert (caught.value.dimension, caught.value.retry_after) == ("itpm", 7.0)
    with pytest.raises(QuotaExhaustedError):
        acme.decode(reply({"error": "the daily quota is used up"}, 429))
    with pytest.raises(BadReplyError, match=r"HTTP 200 without an answer; it begins: \{\}"):
        acme.decode(reply({}))


def test_its_headers_are_read(acme: AcmeProvider) -> None:
    told = reply(
        {}, x_acme_limit_tokens="10", x_acme_remaining_tokens="5", x_acme_reset_tokens="2s"
    )
    assert acme.signals(told) == [QuotaSignal("itpm", 10.0, 5.0, 2.0)]


def test_an_object_that_is_no_provider_is_named_with_what_it_lacks(acme: AcmeProvider) -> None:
    class Former:
        name = model = "m"
        default_quota = default_retry = None

        def ask(self) -> None: ...

    message = "Former is no provider: it lacks reserves_output, domain, .*encode.*llmflow.provider"
    with pytest.raises(ConfigurationError, match=message):
        checked(Former())
    acme.batch = Former()  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="Former is no batch API: it lacks limits, line"):
        batch_api_of(acme)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("builtins:int", "cannot be made from a model, base_url and api_key"),
        ("math:pi", "cannot be made from a model, base_url and api_key: .*not callable"),
        ("math:none", "cannot be imported"),
        ("no_such_module:x", "cannot be imported"),
    ],
)
def test_an_entry_point_that_makes_no_provider_is_one_clear_error(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"acme": EntryPoint("acme", value, "llmflow.providers")}
    monkeypatch.setattr(llmflow.provider_registry, "installed_providers", lambda: points)
    with pytest.raises(ConfigurationError, match=message):
        provider_for("acme/m")


def test_every_rate_limit_is_a_field_of_a_quota_and_counts_a_part_of_a_charge() -> None:
    assert Quota(**dict.fromkeys(RATE_LIMITS, 1.0)).rpm == 1.0  # type: ignore[arg-type]
    assert {limit.unit for limit in RATE_LIMITS.values()} == set(range(len(Charge())))
