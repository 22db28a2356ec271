"""What a provider is, and how one is found.

A provider is small and does no I/O: it turns a `Request` into bytes, a reply
into a `Response` or an error of `llmflow.errors`, and knows what a request is
charged. Sending, waiting, retrying and bookkeeping are done once, above it,
for all providers alike.

Providers are found by entry points of the group ``llmflow.providers``: the
part of a model string before the first slash is the entry point's name.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast, runtime_checkable

from llmflow.errors import ConfigurationError, UnknownModelError
from llmflow.retry import Retry
from llmflow.types import (
    Charge,
    Quota,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)

ENTRY_POINT_GROUP = "llmflow.providers"
FALLBACK_PROVIDER = "litellm"
_FACTS = ("name", "model", "default_quota", "default_retry", "reserves_output")
_METHODS = ("domain", "prepare", "reserve", "settle")


@runtime_checkable
class Provider(Protocol):
    """What every provider answers, bound to one model, base URL and key.

    Attributes:
        name: the provider's name, as in ``name/model``.
        model: the model's name at the provider.
        default_quota: the quota assumed where none is configured, or None.
        default_retry: the retry policy that fits this provider, or None for llmflow's own.
        endpoint: optional: where the provider is, such as its base URL; what was answered
            elsewhere is not taken for an answer from here.
        server: optional: what takes the endpoint's place in that, if more than the endpoint
            decides who answers. It is hashed and never shown.
        marked_prefix: optional: a method that returns the `MarkedPrefix` of a request, or None,
            where the provider keeps such a beginning for later requests.
        known_options: optional: the names of the fields that calls may give as keywords, for its
            body; without it, or where it is None, any name that is not llmflow's own.
        batch: optional: its `llmflow.batch_api.BatchAPI`, or None where it has none.
        reserves_output: whether ``max_tokens`` is charged when a request arrives. Where it is
            not, what is produced is charged, and llmflow reserves what it has learned to expect.
    """

    name: str
    model: str
    default_quota: Quota | None
    default_retry: Retry | None
    reserves_output: bool

    @property
    def domain(self) -> Hashable:
        """What shares one quota: equal domains share one limiter. Holds no secret."""
        ...

    def prepare(self) -> None:
        """Check what can be checked without a request: key, model, installed extras.

        Raises:
            ConfigurationError: something is missing; the message says what to do.
        """
        ...

    def reserve(self, request: Request) -> Charge:
        """Return what the provider charges a request when it arrives."""
        ...

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return what a request was charged in the end, now that its usage is known."""
        ...


@runtime_checkable
class WireProvider(Provider, Protocol):
    """A provider without I/O: llmflow's own transport sends its bytes."""

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into what goes over the wire."""
        ...

    def decode(self, reply: WireReply) -> Response:
        """Turn a reply into a response.

        Raises:
            ProviderError: the reply is an error, of the class that says what to do;
                `retry_after` holds the delay that the server asked for.
        """
        ...

    def signals(self, reply: WireReply) -> Sequence[QuotaSignal]:
        """Read what a reply's headers say of the quota."""
        ...


@runtime_checkable
class ClientProvider(Provider, Protocol):
    """A provider that brings a client of its own, such as litellm."""

    async def complete(self, request: Request, *, timeout: float) -> Response:
        """Send one request, once, and return its answer.

        What the reply's headers say of the quota goes into `signals`, of the response
        or of the error.

        Args:
            request: what to ask.
            timeout: seconds until the attempt is given up.

        Raises:
            ProviderError: as `WireProvider.decode`.
        """
        ...


class ProviderFactory(Protocol):
    """What an entry point names: a class or function that makes a provider."""

    def __call__(self, model: str, *, base_url: str | None, api_key: str | None) -> Provider:
        """Make a provider for one model. Must not fail for want of a key: `prepare` does."""
        ...


@functools.cache
def installed_providers() -> dict[str, EntryPoint]:
    """Return the installed providers by name."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def provider_for(
    model: str, *, base_url: str | None = None, api_key: str | None = None
) -> WireProvider | ClientProvider:
    """Make the provider that a model string names.

    ``openai/gpt-6-luna`` names a native provider and its model. A name that no
    native provider has goes to litellm as it stands.

    Raises:
        UnknownModelError: there is no such provider, and litellm cannot help.
        ConfigurationError: the string is not a model name.
    """
    if not isinstance(model, str) or not model.strip() or model != model.strip():
        raise ConfigurationError(
            f"the model must be a string such as 'openai/gpt-6-luna'; got {model!r}"
        )
    providers = installed_providers()
    prefix, slash, name = model.partition("/")
    if slash and prefix in providers:
        if not name:
            raise UnknownModelError(
                f"{model!r} names a provider but no model; write {prefix}/MODEL"
            )
        return checked(_load(providers[prefix])(name, base_url=base_url, api_key=api_key))
    if model in providers:
        raise UnknownModelError(f"{model!r} names a provider but no model; write {model}/MODEL")
    if FALLBACK_PROVIDER not in providers:
        raise UnknownModelError(unknown_model_message(model))
    return checked(_load(providers[FALLBACK_PROVIDER])(model, base_url=base_url, api_key=api_key))


def checked(provider: object) -> WireProvider | ClientProvider:
    """Return a provider that has all its parts.

    Raises:
        ConfigurationError: something is missing; the message names it.
    """
    wire = ("encode", "decode", "signals")
    own = () if hasattr(type(provider), "complete") else wire
    # Looked up on the class where it is one's: a property must not run to be found.
    missing = [
        name
        for name in (*_FACTS, *_METHODS, *own)
        if not hasattr(type(provider), name) and name not in getattr(provider, "__dict__", {})
    ]
    if missing:
        raise ConfigurationError(
            f"{type(provider).__name__} is no provider: it lacks {', '.join(missing)}; "
            "see llmflow.provider"
        )
    return cast("WireProvider | ClientProvider", provider)


@functools.lru_cache(maxsize=128)
def key_digest(key: str | None) -> str:
    """Return what tells keys apart in a quota domain, and from which no key can be read."""
    return hashlib.sha256((key or "").encode()).hexdigest()[:16]


def unknown_model_message(model: str) -> str:
    """Return the one-line explanation for a model name that nobody knows."""
    native = sorted(installed_providers())
    prefix, slash, name = model.partition("/")
    close = get_close_matches(prefix.lower(), native, n=1)
    if slash and prefix in native:
        hint = f"the native provider is {prefix}/{name}, without another name before it"
    elif slash and close:
        hint = f"did you mean '{close[0]}/{name}'?"
    elif not slash:
        hint = f"write the provider first, such as 'openai/{model}'"
    else:
        hint = f"native providers are {', '.join(native)}"
    end = "" if hint.endswith("?") else "."
    return f"no native provider has the model {model!r}: {hint}{end}"


def _load(point: EntryPoint) -> ProviderFactory:
    try:
        return cast("ProviderFactory", point.load())
    except (ImportError, AttributeError) as error:
        message = f"the provider {point.name!r} ({point.value}) cannot be imported: {error}"
        raise ConfigurationError(message) from error
