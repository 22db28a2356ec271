"""Every model that litellm reaches and llmflow has no file for.

litellm (read: 1.106) brings more than a hundred providers, and habits that do not
fit under a scheduler: it retries by itself, prints, downloads, and keeps clients of
event loops that have ended. `llmflow_providers.litellm.client` undoes them, and
`llmflow_providers.litellm.replies` translates what it raises.

It costs 2 to 3 ms of CPU time a call, which is 300 to 500 calls a second on one core.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, cast

from llmflow.errors import (
    BadReplyError,
    ConfigurationError,
    LLMFlowError,
    MissingExtraError,
    MissingKeyError,
    RequestTimeoutError,
    UnknownModelError,
)
from llmflow.parts import texts
from llmflow.provider import key_digest
from llmflow.provider_registry import (
    FALLBACK_PROVIDER,
    installed_providers,
    unknown_model_message,
)
from llmflow.retry import Retry
from llmflow.surrogates import well_formed, well_formed_value
from llmflow.tokens import Estimate, TokenEstimator
from llmflow.types import Charge, Quota, Request, Response, Usage
from llmflow_providers import finish_reasons, words
from llmflow_providers.base import (
    EMPTY,
    check_key,
    checked_base_url,
    count,
    dollars,
    said,
    text_of,
    tokens,
    word,
)
from llmflow_providers.litellm.client import INSTALL, LiteLLMClient, is_installed, loader
from llmflow_providers.litellm.replies import (
    error_beside,
    is_unknown_provider,
    looking,
    lower_headers,
    quota_signals,
    translate,
    vendor_dialect,
)
from llmflow_providers.openai import reserved, settled
from llmflow_providers.schema_asking import SchemaAsking

if TYPE_CHECKING:
    from llmflow_providers.litellm.litellm_output import LiteLLMOutput

# Providers with one key and no other way to log in. Elsewhere (cloud roles, tokens,
# variables with several names) litellm's own list of what is missing is a guess.
_ONE_KEY: Final = words("anthropic cerebras deepseek gemini groq mistral moonshot openai xai")
# How variables end that name a server.
_ADDRESS: Final = ("_API_BASE", "_BASE_URL", "_API_URL", "_ENDPOINT", "_HOST")
_LONGEST: Final = 7 * 86_400.0
# How litellm marks headers that are the provider's.
_THEIRS: Final = "llm_provider-"


class LiteLLMProvider(SchemaAsking):
    """One model, called through litellm.

    >>> LiteLLMProvider("cohere_chat/command-r").domain[0]
    'litellm'

    Args:
        model: the model's name at litellm, such as ``cohere_chat/command-r``.
        base_url: where the API is, instead of the provider's own address.
        api_key: the key; by default litellm looks where the provider's keys are kept.

    Raises:
        ConfigurationError: the base URL is no HTTP URL, or holds a password.
    """

    name = "litellm"
    default_quota: Quota | None = None
    default_retry: Retry | None = None

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        self.model = model
        self.base_url = checked_base_url(base_url) if base_url else None
        self._key = api_key or None
        self._dialect = vendor_dialect(model)
        self.reserves_output = self._dialect.reserves_output
        self._tokens = TokenEstimator(model)
        self._client: LiteLLMClient | None = None
        self._has_looked = False  # at what litellm can send for a schema
        self._look = looking(model, self._key)
        # litellm's retries must be off twice: its own, and those of the SDK below it.
        self._fixed: dict[str, Any] = {"model": model, "max_retries": 0, "num_retries": 0}
        if self.base_url:
            self._fixed["api_base"] = self.base_url
        if self._key:
            self._fixed["api_key"] = self._key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r})"

    @property
    def domain(self) -> Hashable:
        """One quota per server, key digest and model."""
        return (self.name, self.base_url, key_digest(self._key), self.model)

    @property
    def endpoint(self) -> str:
        """The address, if it is not the provider's own."""
        return self.base_url or ""

    @property
    def server(self) -> str:
        """The answering server: the endpoint, or litellm's from the environment.

        It may hold a password and is for hashing only: answers of one server are not those
        of another. The variables are named like ``OLLAMA_API_BASE`` or ``OPENAI_BASE_URL``.
        """
        if self.base_url:
            return self.base_url
        vendor = self.model.partition("/")[0] if "/" in self.model else "openai"
        start = vendor.partition("_")[0].upper() + "_"
        found = [
            f"{name}={value}"
            for name, value in sorted(os.environ.items())
            if value and name.startswith(start) and name.endswith(_ADDRESS)
        ]
        return " ".join(found)

    def prepare(self) -> None:
        """Check that litellm knows the model's provider and a key.

        The last two need the import, which takes seconds: on an event loop they
        wait for the first call, which imports in a thread.

        Raises:
            MissingExtraError: litellm is not installed.
            UnknownModelError: litellm knows no such provider.
            MissingKeyError: no key was given, and none is in the environment.
            ConfigurationError: the key cannot be sent.
        """
        if not is_installed():
            raise MissingExtraError(f"{_why_litellm(self.model)}: {INSTALL}")
        check_key(self._key, name=self.model, variable="api_key")
        if self._client is None and asyncio._get_running_loop() is None:
            self._client = self._checked(loader.load())

    async def complete(self, request: Request, *, timeout: float) -> Response:
        """Send one request through litellm, once, and return its answer.

        Raises:
            ProviderError: the same class as the provider's status and body mean elsewhere.
            ConfigurationError: as `prepare`, or the request asks for a stream.
        """
        client = self._client
        if client is None:
            client = self._client = self._checked(await loader.load_in_thread())
        if request.wanted and not self._has_looked:
            self._has_looked = True
            known = client.known_fields(self.model)
            if known is not None:
                cast("LiteLLMOutput", self.typed).keep(known)
        answer = await self._ask(client, self._arguments(request, timeout), timeout)
        if isinstance(answer, LLMFlowError):
            raise answer
        return self._response(answer)

    def _typed_output(self) -> LiteLLMOutput:
        from llmflow_providers.litellm.litellm_output import LiteLLMOutput

        return LiteLLMOutput(self.model, who=f"{self.name}/{self.model}")

    def reserve(self, request: Request) -> Charge:
        """Return the prompt's estimated tokens and, in full, the answer's upper bound."""
        prompt = self._tokens.estimate(
            *texts(request.system),
            *[text for message in request.messages for text in texts(message.get("content"))],
        )
        if request.wanted:
            more = self.typed.tokens(request)
            base, prompt = prompt.base + more, Estimate(prompt + more)
            prompt.base = base
        return reserved(self._dialect, prompt, request.max_tokens or 0)

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return the real charge, and learn from it for estimates."""
        if not usage.total_tokens:
            return charge
        estimate = charge.input_tokens
        # Where it does not reserve, the limiter itself learns what requests come to.
        if self.reserves_output and isinstance(estimate, int):
            self._tokens.observe(estimate, usage.input_tokens)
        return settled(self._dialect, charge, usage)

    async def _ask(
        self, client: LiteLLMClient, arguments: Mapping[str, Any], timeout: float
    ) -> Any:
        """Return the answer or the error: raised, it would hold the key."""
        outer = sys.exception()  # what the caller is handling is not part of the failure
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                return await client.acompletion(arguments, self._look)
        except Exception as error:  # noqa: BLE001 - the boundary to litellm
            if deadline.expired():
                return RequestTimeoutError(f"no answer within {timeout:g} s")
            return translate(error, outer=outer, secret=self._key, model=self.model)

    def _checked(self, client: LiteLLMClient) -> LiteLLMClient:
        """Return the client, if litellm knows provider and key."""
        try:
            vendor, found_key = client.vendor(self.model, self.base_url)
        except Exception as error:  # noqa: BLE001 - the boundary to litellm
            if is_unknown_provider(error):
                message = unknown_model_message(self.model)
                raise UnknownModelError(
                    f"{message} litellm knows no such provider either"
                ) from None
            return client  # it may still work: the call will tell
        if self._key is None and self.base_url is None and not found_key and vendor in _ONE_KEY:
            missing = client.missing_keys(self.model, vendor)
            if missing:
                raise MissingKeyError(
                    f"{self.name}/{self.model} needs an API key: "
                    f"set {missing[-1]}, or pass api_key=..."
                )
        return client

    def _arguments(self, request: Request, timeout: float) -> dict[str, Any]:
        output = self.typed.sent(request) if request.wanted else None
        if output is not None and output.instructions:
            from llmflow.typed.instructions import with_instructions

            request = with_instructions(request, output.instructions)
        options = request.options
        if options.get("stream"):
            raise ConfigurationError("a whole answer is returned at once: stream is not supported")
        # Clients write JSON in ways of their own, and some fail on half of a surrogate pair.
        messages: list[Mapping[str, Any]] = [well_formed_value(each) for each in request.messages]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": well_formed(request.system)})
        timeout = min(timeout, _LONGEST)  # its HTTP clients cannot count to infinity
        arguments: dict[str, Any] = {"messages": messages, "timeout": timeout}
        if request.max_tokens is not None:
            arguments["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            arguments["temperature"] = request.temperature
        if output is not None:
            options = {**options, **output.fields}
        return {**arguments, **options, **self._fixed}

    def _response(self, answer: Any) -> Response:
        try:
            choice = answer.choices[0]
            message = choice.message
            text = well_formed(text_of(message.content))
        except (LookupError, TypeError, AttributeError):
            raise BadReplyError("the answer holds no choice", status=200) from None
        finish_reason = _finish_reason(choice)
        if getattr(message, "tool_calls", None):
            text, finish_reason = _answer(message.tool_calls, text, finish_reason)
        hidden: Mapping[str, Any] = getattr(answer, "_hidden_params", None) or EMPTY
        headers = _headers(answer, hidden)
        cost = dollars(hidden.get("response_cost"))
        response = Response(
            text=text,
            usage=_usage(getattr(answer, "usage", None)),
            finish_reason=finish_reasons.plain(finish_reason) if finish_reason else None,
            model=word(answer.model) or self.model,
            provider=self.name,
            request_id=headers.get("x-request-id") or headers.get("request-id") or word(answer.id),
            cost=cost or None,
            signals=quota_signals(headers, dialect=self._dialect, received_at=time.time()),
            raw=answer.model_dump(warnings=False),
        )
        if finish_reason not in finish_reasons.WHOLE or not text:
            if not text and (refusal := well_formed(_refusal(message))):
                raise finish_reasons.refused(response, refusal)
            self._check_ending(response, choice, headers)
        return response

    def _check_ending(self, response: Response, choice: Any, headers: Mapping[str, str]) -> None:
        """Raise the failure of an answer, by finish reason or error."""
        ending = response.finish_reason
        # litellm calls an ending that is not there "stop".
        error = (getattr(choice, "provider_specific_fields", None) or EMPTY).get("error")
        is_empty = not response.text and not getattr(choice.message, "tool_calls", None)
        finish_reasons.check(
            response,
            ending,
            beside=[error] if is_empty or finish_reasons.is_failure(ending) else (),
            error_of=lambda each: error_beside(each, headers, secret=self._key, model=self.model),
        )


def _headers(answer: Any, hidden: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the provider's own headers, from either of litellm's places."""
    own = getattr(answer, "_response_headers", None)
    if own:
        return lower_headers(own)
    theirs = lower_headers(hidden.get("additional_headers"))
    return {
        name.removeprefix(_THEIRS): value
        for name, value in theirs.items()
        if name.startswith(_THEIRS)
    }


def _why_litellm(model: str) -> str:
    prefix, slash, _ = model.partition("/")
    natives = [each for each in installed_providers() if each != FALLBACK_PROVIDER]
    if not slash or get_close_matches(prefix.lower(), natives, n=1):
        return f"{unknown_model_message(model)} Other models need litellm"
    return f"the model {model!r} needs litellm"


def _answer(calls: Any, text: str, finish_reason: str | None) -> tuple[str, str | None]:
    """Return text and ending of an answer that may be given as a tool call."""
    from llmflow_providers.litellm.litellm_output import answer_of
    from llmflow_providers.typed_output import ending_of_answer

    answer = answer_of(calls)
    if answer is None:
        return text, finish_reason
    return well_formed(answer), ending_of_answer(finish_reason)


def _refusal(message: Any) -> str:
    fields = getattr(message, "provider_specific_fields", None) or EMPTY
    refusal = getattr(message, "refusal", None) or fields.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _finish_reason(choice: Any) -> str | None:
    """Return the ending, in the provider's word if it tells more."""
    fields = getattr(choice, "provider_specific_fields", None) or EMPTY
    native = fields.get("native_finish_reason")
    if isinstance(native, str) and (
        finish_reasons.is_failure(native) or finish_reasons.is_filtered(native)
    ):
        return native
    finish_reason: str | None = choice.finish_reason
    return finish_reason


def _usage(usage: Any) -> Usage:
    def of(holder: Any, name: str) -> int:
        return count(getattr(holder, name, None))

    if not said(*[getattr(usage, each, None) for each in ("prompt_tokens", "completion_tokens")]):
        return Usage()
    prompt = getattr(usage, "prompt_tokens_details", None)
    by_duration = getattr(prompt, "cache_creation_token_details", None)
    return tokens(
        of(usage, "prompt_tokens"),
        of(usage, "completion_tokens"),
        cached=of(prompt, "cached_tokens"),
        reasoning=of(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
        written=of(prompt, "cache_write_tokens") or of(prompt, "cache_creation_tokens"),
        written_1h=of(by_duration, "ephemeral_1h_input_tokens"),
    )
