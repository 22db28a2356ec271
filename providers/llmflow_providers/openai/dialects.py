"""The servers that speak OpenAI's dialect, and what each does differently: one table.

They agree on the body of a chat completion and on little else: when tokens are charged
and which, what the headers of the same name mean, and what a 429 says. What stands here
is from each provider's own pages (summer and autumn 2026); where a provider documents
nothing, it has no row, and OpenAI's rules are assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from llmflow import errors
from llmflow.errors import ConfigurationError
from llmflow.headers import parse_number, parse_reset, server_time
from llmflow.types import Charge, QuotaSignal, Usage

_MINUTE: Final = 60.0
# OpenAI's models that refuse "max_tokens", also behind a gateway that passes it on.
_REASONING_MODEL: Final = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d))(?:$|[.-])")
# Mistral's models on Azure, which refuse "max_completion_tokens".
_MISTRAL_MODEL: Final = re.compile(r"[sx]tral", re.IGNORECASE)  # Codestral, Pixtral ...


# Servers of models of several makers: what bounds an answer is a matter of the model.
_OF_MANY: Final = frozenset(("azure", "compatible"))


class Rule(Enum):
    """What counts against tokens per minute, and when."""

    LARGER = "larger"
    """On arrival: the larger one of the prompt and ``max_tokens``; never given back."""
    SUM = "sum"
    """On arrival: the prompt and ``max_tokens``; never given back."""
    SUM_THEN_REFUND = "sum, then refund"
    """On arrival: the prompt and ``max_tokens``; what was not used is given back."""
    PROMPT = "prompt"
    """The prompt alone."""
    PRODUCED = "produced"
    """The prompt, and the answer as it is produced."""


class LimitHeaders(NamedTuple):
    """The headers of one limit."""

    dimension: str
    limit: str
    remaining: str
    reset: str


@lru_cache(maxsize=1024)
def _bound_of(server: str, model: str) -> str:
    name = model.rpartition("/")[2]
    if server == "azure":  # a deployment has any name; most are of OpenAI's models
        is_new = _MISTRAL_MODEL.search(name) is None
    else:
        is_new = _REASONING_MODEL.match(name) is not None
    return "max_completion_tokens" if is_new else "max_tokens"


def _headers(dimension: str, ending: str) -> LimitHeaders:
    return LimitHeaders(
        dimension, *(f"x-ratelimit-{each}-{ending}" for each in ("limit", "remaining", "reset"))
    )


_OPENAI_HEADERS: Final = (
    _headers("rpm", "requests"),
    _headers("tpm", "tokens"),
    _headers("tpm", "project-tokens"),
)
_MISTRAL_HEADERS: Final = (_headers("rpm", "req-minute"), _headers("tpm", "tokens-minute"))
_CEREBRAS_HEADERS: Final = (
    _headers("rpm", "requests-minute"),
    _headers("tpm", "tokens-minute"),
    _headers("rpd", "requests-day"),
    _headers("tpd", "tokens-day"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one server does in its own way.

    Args:
        name: the provider's name, as litellm calls it too.
        hosts: its hosts; one that begins with a dot stands for all hosts below it.
        rule: what counts against the tokens per minute.
        cache_is_free: whether tokens read from a prompt cache do not count.
        max_tokens_field: the name of the bound of an answer; see `bound_of`.
        headers: the limits that its replies tell.
        other_headers: those to look for where a reply has none of `headers`.
        by_status: what a status means that means something else elsewhere.
        fixed_minute: whether the whole quota comes back when the clock's minute is over.
    """

    name: str
    hosts: tuple[str, ...] = ()
    rule: Rule = Rule.LARGER
    cache_is_free: bool = False
    max_tokens_field: str = "max_tokens"
    headers: tuple[LimitHeaders, ...] = _OPENAI_HEADERS
    other_headers: tuple[LimitHeaders, ...] = ()
    by_status: Mapping[int, type[errors.ProviderError]] = field(default_factory=dict)
    fixed_minute: bool = False

    @property
    def reserves_output(self) -> bool:
        """Whether ``max_tokens`` is charged when a request arrives."""
        return self.rule not in {Rule.PROMPT, Rule.PRODUCED}

    def bound_of(self, model: str) -> str:
        """Return the name of the field that bounds an answer of a model.

        Whoever sends the wrong one is refused, or not bounded.
        """
        if self.max_tokens_field == "max_tokens" and self.name in _OF_MANY:
            return _bound_of(self.name, model)
        return self.max_tokens_field

    def reserve(self, prompt: float, most: float) -> Charge:
        """Return what a request is charged on arrival, or at most.

        Args:
            prompt: the prompt's tokens.
            most: the bound of the answer's tokens, 0 where there is none.
        """
        tokens = prompt + most
        if self.rule is Rule.LARGER:
            tokens = most if most > prompt else prompt
        elif self.rule is Rule.PROMPT:
            tokens, most = prompt, 0.0
        return Charge(1.0, tokens, prompt, most)

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return what a request was charged in the end."""
        if self.rule in {Rule.LARGER, Rule.SUM} or not usage.total_tokens:
            return charge
        read = usage.input_tokens - (usage.cached_tokens if self.cache_is_free else 0)
        output = 0 if self.rule is Rule.PROMPT else usage.output_tokens
        return Charge(charge.requests, float(read + output), float(read), float(output))

    def signals(self, headers: Mapping[str, str], *, received_at: float) -> list[QuotaSignal]:
        """Read what a reply's headers say of the quota.

        Args:
            headers: a reply's headers, with lower-case names.
            received_at: when it came, in seconds since 1970.
        """
        found: list[QuotaSignal] = []
        for names in self.headers:
            if names.limit in headers:
                self._add(found, headers, names, received_at)
        if not found:
            for names in self.other_headers:
                if names.limit in headers:
                    self._add(found, headers, names, received_at)
        return found

    def _add(
        self,
        found: list[QuotaSignal],
        headers: Mapping[str, str],
        names: LimitHeaders,
        received_at: float,
    ) -> None:
        limit = parse_number(headers.get(names.limit))
        reset = headers.get(names.reset)
        if reset is not None:
            seconds = parse_reset(reset, now=server_time(headers, received_at))
        else:
            seconds = self.minute_left(headers, received_at=received_at)
        remaining = parse_number(headers.get(names.remaining))
        signal = QuotaSignal(names.dimension, limit, remaining, seconds)
        for place, other in enumerate(found):
            if other.dimension == names.dimension:  # of an organisation's and a project's limit
                if limit is not None and (other.limit is None or limit < other.limit):
                    found[place] = signal
                return
        found.append(signal)

    def minute_left(self, headers: Mapping[str, str], *, received_at: float) -> float | None:
        """Return the seconds until the server's minute is over; None where that changes nothing."""
        if not self.fixed_minute:
            return None
        return _MINUTE - server_time(headers, received_at) % _MINUTE


OPENAI: Final = Dialect(
    name="openai", hosts=("api.openai.com",), max_tokens_field="max_completion_tokens"
)
DIALECTS: Final = (
    OPENAI,
    Dialect(
        name="azure",
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        rule=Rule.SUM,
    ),
    Dialect(
        name="groq",
        hosts=("api.groq.com",),
        rule=Rule.SUM_THEN_REFUND,
        cache_is_free=True,
        max_tokens_field="max_completion_tokens",
        # The header of the requests tells the day's, that of the tokens the minute's.
        headers=(_headers("rpd", "requests"), _headers("tpm", "tokens")),
    ),
    Dialect(
        name="cerebras",
        hosts=("api.cerebras.ai",),
        rule=Rule.SUM,
        max_tokens_field="max_completion_tokens",
        headers=_CEREBRAS_HEADERS,
    ),
    Dialect(
        name="mistral",
        hosts=("api.mistral.ai",),
        rule=Rule.PRODUCED,
        headers=_MISTRAL_HEADERS,
        fixed_minute=True,
    ),
    Dialect(
        name="fireworks_ai",
        hosts=("api.fireworks.ai",),
        rule=Rule.PRODUCED,
        headers=(
            _headers("rpm", "requests"),
            _headers("itpm", "tokens-prompt"),
            _headers("otpm", "tokens-generated"),
        ),
        by_status={412: errors.BillingError},  # suspended: the spending limit is reached
    ),
    Dialect(
        name="gemini", hosts=("generativelanguage.googleapis.com",), rule=Rule.PROMPT, headers=()
    ),
    Dialect(
        name="deepseek",
        hosts=("api.deepseek.com",),
        headers=(),
        by_status={429: errors.ConcurrencyLimitError},  # the only limit is what is in flight
    ),
)
COMPATIBLE: Final = Dialect(
    name="compatible", other_headers=(_MISTRAL_HEADERS[0], *_CEREBRAS_HEADERS)
)
"""What is assumed of a server that is not in the table: OpenAI's rules."""

_BY_NAME: Final = {each.name: each for each in (*DIALECTS, COMPATIBLE)}
DIALECT_NAMES: Final = frozenset(_BY_NAME)
_BY_HOST: Final = {host: each for each in DIALECTS for host in each.hosts}


def dialect_at(base_url: str) -> Dialect:
    """Return the dialect of the server at an address.

    >>> dialect_at("https://api.groq.com/openai/v1").name
    'groq'
    """
    host = urlsplit(base_url).hostname or ""
    parent = host[host.find(".") :] if "." in host else ""
    return _BY_HOST.get(host) or _BY_HOST.get(parent) or COMPATIBLE


def dialect_named(name: str) -> Dialect:
    """Return a dialect of the table.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in _BY_NAME:
        raise ConfigurationError(
            f"there is no dialect {name!r}; those known are {', '.join(sorted(_BY_NAME))}"
        )
    return _BY_NAME[name]
