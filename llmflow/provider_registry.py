"""The installed providers, by entry points of the group ``llmflow.providers``.

The part of a model string before the first slash is the entry point's name.
"""

from __future__ import annotations

import functools
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

from llmflow.errors import ConfigurationError, UnknownModelError
from llmflow.provider import ClientProvider, ProviderFactory, WireProvider, checked

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "llmflow.providers"
FALLBACK_PROVIDER = "litellm"


@functools.cache
def installed_providers() -> dict[str, EntryPoint]:
    """Return the installed providers by name."""
    from importlib.metadata import entry_points  # an eighth of what `import llmflow` would take

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
        return _made(providers[prefix], name, base_url=base_url, api_key=api_key)
    if model in providers:
        raise UnknownModelError(f"{model!r} names a provider but no model; write {model}/MODEL")
    if FALLBACK_PROVIDER not in providers:
        raise UnknownModelError(unknown_model_message(model))
    return _made(providers[FALLBACK_PROVIDER], model, base_url=base_url, api_key=api_key)


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


def _made(
    point: EntryPoint, model: str, *, base_url: str | None, api_key: str | None
) -> WireProvider | ClientProvider:
    """Return the provider that an entry point makes."""
    told = f"the provider {point.name!r} ({point.value})"
    try:
        factory = cast("ProviderFactory", point.load())
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{told} cannot be imported: {error}") from error
    try:
        return checked(factory(model, base_url=base_url, api_key=api_key))
    except TypeError as error:
        message = f"{told} cannot be made from a model, base_url and api_key: {error}"
        raise ConfigurationError(message) from error
