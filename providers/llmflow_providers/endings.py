"""Endings of answers that are failures: words of all dialects, in any case."""

from __future__ import annotations

from typing import Final

from llmflow import errors
from llmflow.types import Usage

WHOLE: Final = frozenset({"stop", "length", "tool_calls", "end_turn", "max_tokens"})
"""The usual endings, which need no closer look."""

_AS_IT_IS: Final = frozenset({"stop", "length", "tool_calls"})
_CUT: Final = frozenset(
    {
        "length",
        "max_length",
        "max_output_tokens",
        "max_tokens",  # Anthropic, Gemini
        "max_tokens_reached",
        "model_context_window_exceeded",
        "model_length",  # Mistral
        "token_limit",
    }
)

_FAILED: Final[dict[str, type[errors.ProviderError]]] = {
    "insufficient_system_resource": errors.OverloadedError,  # DeepSeek
    "overloaded": errors.OverloadedError,
    "network_error": errors.ServerError,  # Z.ai
    "abort": errors.ServerError,  # SGLang, vLLM
    "aborted": errors.ServerError,
    "cancelled": errors.ServerError,
    "canceled": errors.ServerError,
    "engine_error": errors.ServerError,
    "error": errors.ServerError,  # OpenRouter, Mistral, Cohere
    "failed": errors.ServerError,
    "failure": errors.ServerError,
    "internal_error": errors.ServerError,
    "internal_server_error": errors.ServerError,
    "model_error": errors.ServerError,
    "server_error": errors.ServerError,
    "upstream_error": errors.ServerError,
    "timeout": errors.RequestTimeoutError,
}
_FILTERED: Final = frozenset(
    {
        "blocked",
        "blocklist",  # Gemini, to prohibited_content
        "content_blocked",
        "content_filter",
        "content_filtered",  # Bedrock
        "content_policy_violation",
        "error_toxic",  # Cohere
        "guardrail_intervened",  # Bedrock
        "image_safety",
        "language",
        "model_armor",
        "moderation",
        "prohibited_content",
        "recitation",
        "refusal",  # Anthropic
        "safety",
        "sensitive",  # Z.ai
        "spii",
    }
)


def _word(ending: str) -> str:
    return ending.strip().lower().removeprefix("finish_reason_")


def plain(ending: str) -> str:
    """Return an ending, where it says that the answer was cut off as ``length``.

    >>> plain("MAX_TOKENS"), plain("model_length"), plain("eos")
    ('length', 'length', 'eos')
    """
    return "length" if ending not in _AS_IT_IS and _word(ending) in _CUT else ending


def is_failure(ending: object) -> bool:
    """Whether an ending says that the provider failed.

    >>> is_failure("NETWORK_ERROR"), is_failure("stop"), is_failure(None)
    (True, False, False)
    """
    return isinstance(ending, str) and _word(ending) in _FAILED


def is_filtered(ending: object) -> bool:
    """Whether an ending says that the answer was stopped because of its content."""
    return isinstance(ending, str) and _word(ending) in _FILTERED


def failed(ending: str) -> errors.ProviderError:
    """Return the failure that an ending stands for, one that `is_failure`."""
    kind = _FAILED[_word(ending)]
    return kind(f"the answer ended with finish_reason {errors.redact(ending)!r}", status=200)


def filtered(
    ending: str,
    *,
    text: str,
    usage: Usage,
    cost: float | None = None,
    request_id: str | None = None,
    said: str = "",
) -> errors.ContentFilterError:
    """Return the refusal that an ending stands for, with what there is of the answer.

    Args:
        ending: the word.
        text: what was written until then.
        usage: what it took.
        cost: what the server says that it charges.
        request_id: the provider's id of this request.
        said: more of the reason, where the provider gives it.
    """
    shown = errors.redact(ending)
    detail = f": {errors.redact(said)}" if said else ""
    return errors.ContentFilterError(
        f"the answer was stopped because of its content (finish_reason {shown!r}){detail}",
        status=200,
        code="content_filter",
        request_id=request_id,
        partial_text=text,
        usage=usage if usage.total_tokens else None,
        cost=cost,
    )
