"""Arguments of a call: prompt, options, fields of the provider's request."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llmflow.arguments import belongs_elsewhere, refuse
from llmflow.errors import ConfigurationError, InputError, redact
from llmflow.parts import VALUES, Text
from llmflow.provider import Provider
from llmflow.types import Request

if TYPE_CHECKING:
    from llmflow.config import Settings
    from llmflow.typed.methods import OutputMethod
    from llmflow.typed.output_type import OutputType

ProviderT = TypeVar("ProviderT", bound=Provider)

CALL: Final = ("prompt", "system", "max_tokens", "temperature", "options", "output_type")
"""The arguments of one call."""

MAP: Final = (
    *CALL,
    *("items", "ordered", "on_error", "concurrency", "mode", "deadline", "fallback", "batch"),
    *("validate", "reasks", "progress"),
)
"""The arguments of a map."""

# Fields of bodies, in all dialects, that say what form an answer has.
_FORMS: Final = ("response_format", "output_format", "text_format", "guided_json")
_WITH_A_FORM: Final = ("output_config", "text")
_TOOLS: Final = ("tools", "tool_choice", "functions", "function_call")

_NOT_A_FIELD: Final = {
    "model": "make another LLM for another model: its quota is another, too",
    "messages": "pass the messages as the prompt",
    "max_tokens": "pass max_tokens=... itself: it counts against the quota",
    "stream": "answers are read whole",
}


def merged_options(
    always: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    *,
    known: frozenset[str] | None,
    place: str,
) -> Mapping[str, Any]:
    """Return the further fields of a call's body.

    The names of `options` are not checked, those of the keywords `fields` are: `known` are the
    fields that the provider is known to have; None: any. `always` are the LLM's.

    Raises:
        UnknownArgumentError: a keyword is neither llmflow's nor the provider's.
        ConfigurationError: a field is llmflow's own.
    """
    if fields:
        check_fields(fields, known=known, place=place)
    if options is None:
        return checked_options({**always, **fields})
    return checked_options({**always, **checked_options(options), **fields})


def check_fields(
    fields: Mapping[str, Any],
    *,
    known: frozenset[str] | None,
    place: str,
    own: Collection[str] = CALL,
) -> None:
    """Refuse keywords that no provider's field can have been meant by.

    `own` are the arguments of `place`, which was called with the fields.

    Raises:
        UnknownArgumentError: a keyword is neither llmflow's nor the provider's.
    """
    if known is not None and fields.keys() <= known:
        return
    for name, value in fields.items():
        if name in _NOT_A_FIELD:
            _refuse_field(name, value)
        elif belongs_elsewhere(name) if known is None else name not in known:
            raise refuse(name, place=place, own=own, known=known or (), fields=True)


def checked_output(given: Any) -> OutputType:
    """Return the output type that a call is given.

    Raises:
        ConfigurationError: it is no type that a JSON schema can describe.
    """
    from llmflow.typed.output_type import as_output_type

    return as_output_type(given)


def asked_by(
    method: OutputMethod | None, provider: ProviderT, settings: Settings | None
) -> ProviderT:
    """Return a provider that is asked for data by one method only.

    It is the given one, else that of the settings.

    Raises:
        ConfigurationError: it does not have that method.
    """
    if method is not None:
        return _forced(method, provider)
    if settings is None or settings.output_method is None:
        return provider
    try:
        return _forced(settings.output_method, provider)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({settings.origins['output_method']})") from error


def _forced(method: OutputMethod, provider: ProviderT) -> ProviderT:
    outputs = getattr(provider, "outputs", None)
    if outputs is None:
        raise ConfigurationError(f"output_method: {type(provider).__name__} takes no output type")
    twin: Any = copy.copy(provider)  # it may be another LLM's, too
    twin.outputs = outputs.forced_to(method)
    return twin  # type: ignore[no-any-return]


def check_output(output: OutputType | None, options: Mapping[str, Any], provider: Provider) -> None:
    """Check that a provider can be asked for an output type.

    Raises:
        ConfigurationError: it cannot, or an option says another form of the answer.
    """
    outputs = getattr(provider, "outputs", None)
    if output is not None and outputs is not None:
        outputs.chosen(output.output)
    if output is not None and options:
        check_beside_output(options, provider, output)


def check_beside_output(options: Mapping[str, Any], provider: Provider, output: OutputType) -> None:
    """Refuse options that say the form of an answer, too.

    Raises:
        ConfigurationError: there is one.
    """
    for name in _FORMS:
        if options.get(name) is not None:
            raise _said_twice(name)
    for name in _WITH_A_FORM:
        if isinstance(held := options.get(name), Mapping) and held.get("format") is not None:
            raise _said_twice(f"{name}.format")
    outputs = getattr(provider, "outputs", None)
    if outputs is None or outputs.chosen(output.output).method != "tool":
        return
    for name in _TOOLS:
        if options.get(name):
            raise ConfigurationError(
                f"{name!r} cannot be one of the options beside output_type: "
                f"{provider.name}/{provider.model} answers by a tool of llmflow's own; leave one "
                "of the two out"
            )


def _said_twice(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name!r} cannot be one of the options beside output_type, which says the form of the "
        "answer: leave one of the two out"
    )


def known_fields(provider: object) -> frozenset[str] | None:
    """Return a provider's known body fields; None if it takes any.

    Raises:
        ConfigurationError: its ``known_options`` are no names.
    """
    known = getattr(provider, "known_options", None)
    if known is None:
        return None
    if isinstance(known, str) or not all(isinstance(name, str) for name in known):
        raise ConfigurationError(
            f"known_options of {type(provider).__name__} must be a set of names, or None"
        )
    return frozenset(known)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return further fields of a body, in one order.

    Raises:
        ConfigurationError: they are no dict, or one of them is llmflow's own.
    """
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"options must be a dict; got {type(options).__name__}")
    for name in _NOT_A_FIELD:
        if name in options:
            _refuse_field(name, options[name])
    # In one order: the same question is the same body, and so the same in a journal.
    return dict(sorted(options.items()))


def as_messages(prompt: Any) -> tuple[Mapping[str, Any], ...]:
    """Return a prompt as chat messages.

    Raises:
        InputError: it is neither a text nor messages.
    """
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
        raise InputError(
            f"the prompt must be a text or a list of messages; got {type(prompt).__name__}"
            f"{_instead(prompt)}"
        )
    if not prompt or not all(isinstance(each, Mapping) and "role" in each for each in prompt):
        raise InputError(
            "the prompt must be a text, or a list of messages with 'role' and 'content', "
            f'such as [{{"role": "user", "content": "Hello"}}]{_instead(prompt)}'
        )
    return tuple(prompt)


def _instead(prompt: Any) -> str:
    """Return what was probably meant."""
    if isinstance(prompt, Mapping):
        return "; put the message into a list: [message]" if "role" in prompt else ""
    texts = isinstance(prompt, Sequence) and prompt and all(isinstance(x, str) for x in prompt)
    if texts or hasattr(prompt, "to_frame") or hasattr(prompt, "columns"):
        return "; for many at once: llm.map_sync(items, prompt=...), or await llm.map(...)"
    return ""


def checked_max_tokens(value: int | None) -> int | None:
    """Return the bound of an answer.

    Raises:
        ConfigurationError: it is no whole number above 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"max_tokens must be a whole number of at least 1; got {value!r}")
    return value


def checked_temperature(value: float | None) -> float | None:
    """Return the sampling temperature.

    Raises:
        ConfigurationError: it is no number of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"temperature must be a number of at least 0; got {value!r}")
    return value


def _refuse_field(name: str, value: object) -> None:
    if value:
        raise ConfigurationError(f"{name!r} cannot be one of the options; {_NOT_A_FIELD[name]}")


def sendable(request: Request, provider: Provider) -> Request:
    """Return a request that a provider can send.

    Content that is nothing but `Text` becomes a text, which all providers take; `sends` of the
    provider names the other kinds that it takes.

    Raises:
        ConfigurationError: it holds something of another kind.
    """
    for message in request.messages:
        if type(message.get("content")) is not str:
            break
    else:
        wanted = request.wanted
        if not wanted or (len(wanted) == 1 and wanted[0].kind in getattr(provider, "sends", ())):
            return request
    messages = tuple(_with_plain_text(each) for each in request.messages)
    takes = {Text.kind, *getattr(provider, "sends", ())}
    parts = [part for each in messages for part in _parts(each) if type(part) in VALUES]
    for value in (*request.wanted, *parts):
        if value.kind not in takes:
            raise ConfigurationError(
                f"{provider.name}/{provider.model} cannot be sent this {value.kind}: "
                f"{redact(repr(value))}; of parts and outputs the provider takes "
                f"{', '.join(sorted(takes))}. Leave it out, give it in the provider's own format "
                "as a dict or in options, or ask a provider that takes it"
            )
    return request if messages == request.messages else replace(request, messages=messages)


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return list(content) if isinstance(content, list | tuple) else [content]


def _with_plain_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = _parts(message)
    texts = [each for each in parts if isinstance(each, Text)]
    if not texts:
        return message
    if len(texts) == len(parts):
        return {**message, "content": "\n\n".join(each.text for each in texts)}
    if any(isinstance(each, Mapping) for each in parts):  # they are in a provider's own format
        parts = [
            {"type": "text", "text": each.text} if isinstance(each, Text) else each
            for each in parts
        ]
    return {**message, "content": tuple(parts)}
