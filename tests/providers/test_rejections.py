"""What providers say when they say no, word for word: what to do, about which limit, how long."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmflow import errors
from llmflow.provider import WireProvider
from llmflow.types import Response, WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.error_rules import dimension_of
from llmflow_providers.openai import OpenAIProvider

NOW = 1_788_220_760.0  # 2026-08-31T23:59:20Z
KEY = "sk-verysecret-1234567890"


def openai_says(body: object, status: int = 429, **headers: str) -> errors.ProviderError:
    return said(OpenAIProvider("m", base_url="http://h/v1", api_key=KEY), body, status, headers)


def anthropic_says(body: object, status: int = 429, **headers: str) -> errors.ProviderError:
    return said(AnthropicProvider("m", base_url="http://h", api_key=KEY), body, status, headers)


def said(provider: Any, body: object, status: int, headers: dict[str, str]) -> errors.ProviderError:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(errors.ProviderError) as caught:
        provider.decode(WireReply(status, named, content, NOW))
    return caught.value


def nested(message: str, type_: object = None, code: object = None, **rest: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code, **rest}}


def over(what: str, **type_and_code: str) -> dict[str, Any]:
    message = (
        f"Rate limit reached for gpt-x in organization org-T on {what}: Limit 3, Used 3, "
        "Requested 1. Please try again in 20s. Visit https://platform.openai.com/account/rate-limits"
    )
    return nested(message, code="rate_limit_exceeded", **type_and_code)


def google(message: str, *, quota_id: str, delay: str | None = None) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc."
    details: list[dict[str, Any]] = [
        {"@type": f"{kind}Help", "links": [{"description": "Learn more", "url": "https://x"}]},
        {"@type": f"{kind}QuotaFailure", "violations": [{"quotaId": quota_id, "quotaValue": "20"}]},
    ]
    if delay is not None:
        details.append({"@type": f"{kind}RetryInfo", "retryDelay": delay})
    error = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}
    return {"error": error}


GOOGLE = (
    "You exceeded your current quota, please check your plan and billing details. "
    "For more information on this error, head to: https://ai.google.dev/gemini-api/docs. "
    + "To monitor your current usage, head to: https://ai.dev/rate-limit. "
    * 8
    + "\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content, "
    "limit: 20, model: gemini-x\nPlease retry in 41.3s."
)
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
XAI = "Too many requests for team 0 and model grok-x. Your team's rate limit is - Requests per "


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        # 1 to 6: OpenAI, pay first.
        (
            nested(
                "You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota",
                "insufficient_quota",
            ),
            errors.BillingError,
        ),
        (nested("no", "insufficient_quota", "credit_balance_exhausted"), errors.BillingError),
        (nested("no", "x", "organization_spend_limit_exceeded"), errors.BillingError),
        (nested("no", "x", "project_spend_limit_exceeded"), errors.BillingError),
        (nested("no", "x", "organization_usage_limit_exceeded"), errors.BillingError),
        (nested("no", "x", "billing_hard_limit_reached"), errors.BillingError),
        # 7: one request above the limit.
        (
            nested(
                "Request too large for gpt-x in organization org-T on tokens per min (TPM): "
                "Limit 30000, Requested 34307. The input or output tokens must be reduced in "
                "order to run successfully.",
                "tokens",
                "rate_limit_exceeded",
            ),
            errors.TooLargeForLimitError,
        ),
        # 8 and 9: Groq's and OpenAI's days.
        (over("requests per day (RPD)", type_="requests"), errors.QuotaExhaustedError),
        (over("tokens per day (TPD)", type_="tokens"), errors.QuotaExhaustedError),
        # 10 and 11: Gemini.
        (google(GOOGLE, quota_id=PER_DAY, delay="41s"), errors.QuotaExhaustedError),
        (
            nested(
                "Your prepayment credits are depleted. …", code=429, status="RESOURCE_EXHAUSTED"
            ),
            errors.BillingError,
        ),
        (
            google("… limit: 0, model: gemini-x", quota_id=PER_MINUTE),
            errors.QuotaExhaustedError,
        ),
        # 12: xAI.
        (
            {"code": "resource-exhausted", "error": "Free usage quota exceeded. Purchase credits"},
            errors.BillingError,
        ),
        (
            {"code": "resource-exhausted", "error": f"{XAI}Minute (actual/limit): 0/0."},
            errors.QuotaExhaustedError,
        ),
        # 13: Cohere's month, OpenRouter's day, Z.ai.
        (
            {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
            errors.QuotaExhaustedError,
        ),
        (
            nested(
                "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000", code=429
            ),
            errors.QuotaExhaustedError,
        ),
        (nested("no balance", code="1113"), errors.BillingError),
        (nested("quota", code="1308"), errors.QuotaExhaustedError),
    ],
)
def test_a_429_that_no_waiting_helps_is_not_sent_again(
    body: object, kind: type[errors.ProviderError]
) -> None:
    error = openai_says(body)
    assert type(error) is kind
    assert not error.transient


def test_a_limit_of_zero_in_a_header_is_not_waited_for() -> None:
    body = {"object": "error", "message": "Rate limit exceeded", "code": "1300"}
    provider = OpenAIProvider("m", base_url="https://api.mistral.ai/v1", api_key=KEY)
    error = said(provider, body, 429, {"x-ratelimit-limit-req-minute": "0"})
    assert type(error) is errors.QuotaExhaustedError


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (over("tokens per min (TPM)", type_="tokens"), errors.RateLimitError),
        (google(GOOGLE, quota_id=PER_MINUTE, delay="41s"), errors.RateLimitError),
        ([google(GOOGLE, quota_id=PER_MINUTE)], errors.RateLimitError),
        (
            nested("Resource has been exhausted (e.g. check quota).", code=429),
            errors.RateLimitError,
        ),
        (
            {"code": "resource-exhausted", "error": f"{XAI}Minute (actual/limit): 2/2."},
            errors.RateLimitError,
        ),
        (
            {"code": "resource-exhausted", "error": f"{XAI}Minute (actual/limit): 20/20."},
            errors.RateLimitError,
        ),
        (
            {"message": "You are using a Trial key, which is limited to 20 API calls / minute."},
            errors.RateLimitError,
        ),
        (
            {"message": "You are past the per minute request limit, please wait."},
            errors.RateLimitError,
        ),
        (
            {
                "object": "error",
                "type": "invalid_request_error",
                "code": "invalid_request_error",
                "message": "rate limit exceeded, please try again later",
            },
            errors.RateLimitError,
        ),
        ({"error_type": "dynamic_token_limited"}, errors.RateLimitError),
        (
            nested(
                "Rate limit exceeded",
                code=429,
                metadata={"error_type": "rate_limit_exceeded", "provider_code": "rate_limited"},
            ),
            errors.RateLimitError,
        ),
        (nested("too fast", "rate_limit_error", "slow_down"), errors.RampLimitError),
        (nested("System is experiencing high demand", code="429"), errors.OverloadedError),
        (nested("Resource Unavailable"), errors.OverloadedError),
    ],
)
def test_a_429_that_passes_is_waited_for(body: object, kind: type[errors.ProviderError]) -> None:
    error = openai_says(body)
    assert type(error) is kind
    assert error.transient


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (402, nested("Your prepayment credits are depleted. …", code=402), errors.BillingError),
        (
            402,
            nested(
                "This request would exceed your available credits given those in flight.",
                code=402,
                metadata={
                    "reason": "in_flight_budget_exhausted",
                    "limit_source": "openrouter_in_flight_budget",
                },
            ),
            errors.RateLimitError,
        ),
        (
            402,
            nested("Too big.", code=402, metadata={"reason": "weight_exceeds_budget"}),
            errors.TooLargeForLimitError,
        ),
        (
            400,
            nested("x", code=400, metadata={"error_type": "context_length_exceeded"}),
            errors.ContextLengthError,
        ),
        (
            400,
            nested("x", code=400, metadata={"error_type": "content_policy_violation"}),
            errors.ContentFilterError,
        ),
        (
            400,
            nested("The input token count (20) exceeds the maximum number of tokens allowed (10)."),
            errors.ContextLengthError,
        ),
        (
            400,
            {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"},
            errors.ContextLengthError,
        ),
        (400, {"message": "Input is too long for requested model."}, errors.ContextLengthError),
        (
            400,
            nested(
                "API key not valid. Please pass a valid API key.",
                code=400,
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "API_KEY_INVALID",
                    }
                ],
            ),
            errors.AuthenticationError,
        ),
        (401, {"detail": "Invalid API Key"}, errors.AuthenticationError),
        (
            422,
            {"detail": [{"type": "missing", "msg": "Field required"}]},
            errors.InvalidRequestError,
        ),
        (
            413,
            nested(
                "Request too large for model `m` on tokens per minute (TPM): Limit 8, Requested 9",
                "tokens",
                "rate_limit_exceeded",
            ),
            errors.TooLargeForLimitError,
        ),
        (498, nested("full", "x", "capacity_exceeded"), errors.RateLimitError),
    ],
)
def test_other_words_of_other_servers_are_understood(
    status: int, body: object, kind: type[errors.ProviderError]
) -> None:
    assert type(openai_says(body, status)) is kind


@pytest.mark.parametrize(
    ("body", "dimension"),
    [
        (over("tokens per min (TPM)", type_="tokens"), "tpm"),
        (over("requests per min (RPM)", type_="requests"), "rpm"),
        (over("requests per day (RPD)", type_="requests"), "rpd"),
        (over("tokens per day (TPD)", type_="tokens"), "tpd"),
        (over("input tokens per minute (ITPM)", type_="tokens"), "itpm"),
        (nested("Slow.", "tokens", "rate_limit_exceeded"), "tpm"),
        (nested("Slow.", "requests", "rate_limit_exceeded"), "rpm"),
        (nested("Slow.", "rate_limit_error", "rate_limit_exceeded"), None),
        (
            nested("Requests to the API have exceeded token rate limit of your tier.", code="429"),
            "tpm",
        ),
        (nested("Requests to the API have exceeded call rate limit of your tier."), "rpm"),
        (google("x", quota_id=PER_MINUTE), "rpm"),
        (google("x", quota_id=PER_DAY), "rpd"),
        (google("x", quota_id="GenerateContentInputTokensPerModelPerMinute-FreeTier"), "itpm"),
        ({"code": "resource-exhausted", "error": f"{XAI}Second (actual/limit): 2/2."}, "rpm"),
        ({"message": "You are past the per minute request limit"}, "rpm"),
        ({"error_type": "dynamic_token_limited"}, "tpm"),
        ({"error": {"error_type": "dynamic_request_limited"}}, "rpm"),
    ],
)
def test_a_rejection_says_which_limit_it_is_about(body: object, dimension: str | None) -> None:
    assert openai_says(body).dimension == dimension


def test_only_errors_about_a_limit_name_one() -> None:
    assert openai_says(nested("1 request per minute", "tokens"), 500).dimension is None


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (google("Wait.", quota_id=PER_MINUTE, delay="1.68122827s"), {}, 1.68122827),
        # The text is what the field rounds, and it stands behind what a message shows.
        (google(GOOGLE, quota_id=PER_MINUTE, delay="41s"), {}, 41.3),
        (google(GOOGLE, quota_id=PER_MINUTE), {}, 41.3),
        (google("x", quota_id=PER_DAY, delay="21926s"), {}, 21926.0),
        (
            nested(
                "All providers for a/b are at capacity. Retry after 40 seconds.",
                http_status=429,
                availability={"code": "capacity_exhausted", "retryable": True, "retry_after": 40},
            ),
            {},
            40.0,
        ),
        (nested("Wait."), {"x_ratelimit_reset": "1788220800000"}, 40.0),
        (nested("Wait."), {"retry_after": "172800"}, 172_800.0),
        (nested("Wait."), {"retry_after": "9999999"}, None),
        (over("requests per day (RPD)"), {"retry_after": "172800"}, 172_800.0),
        (over("requests per day (RPD)"), {}, 20.0),
        (nested("no", code="1308"), {"retry_after": "2592000"}, 2_592_000.0),
    ],
)
def test_the_delay_is_read_wherever_it_stands(
    body: object, headers: dict[str, str], seconds: float | None
) -> None:
    assert openai_says(body, **headers).retry_after == pytest.approx(seconds)


def test_an_answer_that_ends_with_an_error_is_that_error() -> None:
    choice = {
        "message": {"content": "So far"},
        "finish_reason": "error",
        "error": {"code": 429, "message": "Rate limit exceeded upstream"},
    }
    assert type(openai_says({"choices": [choice]}, 200)) is errors.RateLimitError
    choice["error"] = "odd"
    assert type(openai_says({"choices": [choice]}, 200)) is errors.ServerError


FIELDS = (  # noqa: SIM905 - one word each is easier to read
    "error message type code details metadata availability content choices usage finish_reason "
    "stop_reason text violations model retryDelay retry_after http_status detail id error_code"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)
BODIES = st.binary(max_size=200) | JSON.map(lambda value: _dumped(value))
NAMES = (  # noqa: SIM905
    "retry-after retry-after-ms x-ratelimit-reset date x-ratelimit-limit-requests request-id "
    "x-ratelimit-reset-requests anthropic-ratelimit-requests-limit x-ratelimit-limit-req-minute "
    "anthropic-ratelimit-requests-reset"
).split()
HEADERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.text(max_size=30) | st.datetimes().map(str) | st.floats().map(str),
    max_size=4,
)


def _dumped(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number above 64 bits, a lone surrogate
        return b"null"


def outcome_of(provider: WireProvider, reply: WireReply) -> Response | errors.ProviderError:
    try:
        return provider.decode(reply)
    except errors.ProviderError as error:
        return error


@given(
    st.sampled_from([200, 200, 400, 402, 413, 429, 429, 500, 529]) | st.integers(100, 999),
    BODIES,
    HEADERS,
)
@example(200, b'{"choices": [{"message": {"content": 5}, "finish_reason": "error"}]}', {})
@example(200, b'{"content": [{"type": "text", "text": 5}]}', {})
@example(429, b'{"error": {"availability": {"retry_after": 1e999}}}', {})
@example(200, b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": 1e300}}', {})
def test_no_reply_breaks_a_provider(status: int, body: bytes, headers: dict[str, str]) -> None:
    reply = WireReply(status, headers, body, NOW)
    for provider in (
        OpenAIProvider("m", base_url="http://h/v1", api_key=KEY),
        OpenAIProvider("m", base_url="https://api.mistral.ai/v1", api_key=KEY),
        AnthropicProvider("m", base_url="http://h", api_key=KEY),
    ):
        provider.signals(reply)
        outcome = outcome_of(provider, reply)
        if isinstance(outcome, errors.ProviderError):
            assert outcome.retry_after is None or outcome.retry_after >= 0.0
            assert len(outcome.message) < 700
        else:
            assert isinstance(outcome.text, str)
            assert isinstance(outcome.model, str)
            assert outcome.finish_reason is None or isinstance(outcome.finish_reason, str)


@given(st.text())
def test_no_text_breaks_the_search_for_a_limit(text: str) -> None:
    assert dimension_of(text) in {None, "rpm", "tpm", "itpm", "otpm", "rpd", "tpd"}


@pytest.mark.parametrize(
    "body",
    [
        nested(f"Incorrect API key provided: {KEY}.", KEY, KEY),
        {"type": "error", "error": {"type": KEY, "message": KEY, "details": {"error_code": KEY}}},
        {"error": KEY},
        {"message": KEY, "code": KEY},
        [KEY],
        KEY,
        KEY.encode(),
        {"choices": [{"finish_reason": "error", "error": {"message": KEY}, "message": {}}]},
    ],
)
@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_no_error_shows_the_key(body: object, status: int) -> None:
    for says in (openai_says, anthropic_says):
        error = says(body, status)
        shown = f"{error} {error!r} {error.message} {error.code} {vars(error)}"
        assert "verysecret" not in shown


@pytest.mark.parametrize("says", [openai_says, anthropic_says])
@pytest.mark.parametrize(
    ("rest", "seconds"),
    [
        ({"metadata": {"headers": {"X-RateLimit-Reset": "1788220800000"}}}, 40.0),
        ({"metadata": {"headers": {"Retry-After": "1m30s"}}}, 90.0),
        ({"metadata": {"headers": {"retry-after-ms": 1500}}}, 1.5),
        ({"metadata": {"retry_after": 7}}, 7.0),
        ({"retry_after": 7.5}, 7.5),
        ({"retry_after": "7s"}, 7.0),
        ({"retryAfterMs": 250}, 0.25),
        ({"reset_at": 1788220800}, 40.0),
        ({"resets_at": "2026-09-01T00:00:00Z"}, 40.0),
        ({"metadata": {"headers": ["x"]}}, None),
        ({"metadata": {"headers": {"X-RateLimit-Reset": None}}}, None),
        ({"retry_after": True}, None),
    ],
)
def test_a_delay_that_only_the_body_repeats_is_read(
    says: Any, rest: dict[str, Any], seconds: float | None
) -> None:
    assert says(nested("Slow down.", "rate_limit_error", **rest)).retry_after == seconds
    headers = says(nested("Slow down.", "rate_limit_error", **rest), retry_after="3")
    if seconds != 40.0:
        assert headers.retry_after in (3.0, 1.5, 0.25)


@pytest.mark.parametrize("says", [openai_says, anthropic_says])
@pytest.mark.parametrize(
    ("body", "headers", "back"),
    [
        (nested("Daily quota used up. Try again in 2 hours."), {}, "2026-09-01 02:00 UTC"),
        (nested("You reached today's limit.", code="daily_limit_exceeded"), {}, None),
        (nested("Daily limit. Resets at 2026-09-01T00:00:00Z"), {}, "2026-09-01 00:00 UTC"),
        (
            nested(
                "Rate limit exceeded: free-models-per-day",
                metadata={"headers": {"X-RateLimit-Reset": "1788220800000"}},
            ),
            {},
            "2026-09-01 00:00 UTC",
        ),
        (nested("tokens per day limit"), {"retry_after": "1788220800"}, "2026-09-01 00:00 UTC"),
        (nested("Your monthly quota is used up"), {"retry_after": "1 day"}, "2026-09-02 00:00 UTC"),
        (nested("Slow down"), {"retry_after": "2 days"}, "2026-09-03 00:00 UTC"),
    ],
)
def test_the_quota_of_a_day_ends_the_run_with_the_time_at_which_it_is_back(
    says: Any, body: Any, headers: dict[str, str], back: str | None
) -> None:
    error = says(body, **headers)
    assert type(error) is errors.QuotaExhaustedError
    assert error.fatal
    assert back is None or f"The quota is back at {back}." in str(error)
    assert (error.retry_after is None) == (back is None)
