"""Finish reasons that mean failure, in all dialects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from llmflow import errors
from llmflow.types import Response
from llmflow_providers import words

FilterErrorT = TypeVar("FilterErrorT", bound=errors.ContentFilterError)

WHOLE: Final = words("stop length tool_calls end_turn max_tokens")
"""The usual endings, which need no closer look."""

_AS_IT_IS: Final = words("stop length tool_calls")
# Also Anthropic's, Gemini's and Mistral's.
_CUT: Final = words("""
    length max_length max_output_tokens max_tokens max_tokens_reached
    model_context_window_exceeded model_length token_limit
""")
# OpenRouter, Mistral, Cohere, SGLang, vLLM, Z.ai
_FAILED: Final[Mapping[str, type[errors.ProviderError]]] = {
    **dict.fromkeys(
        words("""
            error failed failure cancelled canceled abort aborted engine_error model_error
            network_error upstream_error server_error internal_error internal_server_error
        """),
        errors.ServerError,
    ),
    **dict.fromkeys(words("insufficient_system_resource overloaded"), errors.OverloadedError),
    "timeout": errors.RequestTimeoutError,
}
# Also Gemini's (blocklist to spii), Anthropic's (refusal), Bedrock's, Cohere's and Z.ai's
# (sensitive).
_FILTERED: Final = words("""
    blocklist image_safety language model_armor prohibited_content recitation safety spii
    blocked content_blocked content_filter content_policy_violation moderation refusal sensitive
    content_filtered error_toxic guardrail_intervened
""")


_REFUSAL: Final = "refusal"
"""Anthropic's word for an answer that the model itself declined to give."""


def _word(ending: str) -> str:
    return ending.strip().lower().removeprefix("finish_reason_")


def plain(ending: str) -> str:
    """Return a finish reason, with ``length`` for cut answers.

    >>> plain("MAX_TOKENS"), plain("model_length"), plain("eos")
    ('length', 'length', 'eos')
    """
    return "length" if ending not in _AS_IT_IS and _word(ending) in _CUT else ending


def is_failure(ending: object) -> bool:
    """Return whether an ending says that the provider failed.

    >>> is_failure("NETWORK_ERROR"), is_failure("stop"), is_failure(None)
    (True, False, False)
    """
    return isinstance(ending, str) and _word(ending) in _FAILED


def is_filtered(ending: object) -> bool:
    """Return whether an ending means a content filter."""
    return isinstance(ending, str) and _word(ending) in _FILTERED


def check(
    response: Response,
    ending: str | None,
    *,
    beside: Iterable[Any] = (),
    error_of: Callable[[Any], errors.ProviderError],
    said: object = None,
) -> None:
    """Raise the failure of an answer, by finish reason or error.

    `error_of` reads one of the errors that stand beside the answer, or nothing in their place;
    `said` is more of the reason, where the provider gives it.
    """
    if is_filtered(ending):
        shown = errors.redact(str(ending))
        detail = f": {errors.redact(said)}" if isinstance(said, str) and said else ""
        message = f"the answer was stopped because of its content (finish_reason {shown!r}){detail}"
        is_refusal = _word(str(ending)) == _REFUSAL
        kind = errors.RefusalError if is_refusal else errors.ContentFilterError
        raise _of_content(kind, message, response, response.text)
    has_failed = is_failure(ending)
    for found in map(error_of, filter(None, beside)):
        if not has_failed or found.status != 200:  # else the ending says more
            raise found
    if has_failed:
        word = str(ending)
        message = f"the answer ended with finish_reason {errors.redact(word)!r}"
        raise _FAILED[_word(word)](message, status=200)


def refused(response: Response, text: str) -> errors.RefusalError:
    """Return the error for a refusal that stands in an answer's place.

    Args:
        response: the answer, without a text.
        text: what the model said instead. Untrusted.
    """
    message = f"the model refused to answer: {errors.redact(text)}"
    return _of_content(errors.RefusalError, message, response, text)


def _of_content(
    kind: type[FilterErrorT], message: str, response: Response, text: str
) -> FilterErrorT:
    code = _REFUSAL if issubclass(kind, errors.RefusalError) else "content_filter"
    return kind(
        message,
        status=200,
        code=code,
        request_id=response.request_id,
        partial_text=text,
        usage=response.usage if response.usage.total_tokens else None,
        cost=response.cost,
    )
