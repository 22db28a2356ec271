"""Words for what every provider refuses in words of its own: content, and models.

Status and type say too little: a 400 or 403 about what one prompt says concerns this prompt,
one about the model's name concerns all of them. Used for the errors of all dialects.
"""

from __future__ import annotations

import re
from typing import Final

from llmflow import errors
from llmflow_providers.error_body import ErrorDetails

_MAY_BE_CONTENT: Final = frozenset({200, 400, 403, 422, 451})
_MAY_BE_MODEL: Final = frozenset({200, 400, 404, 422})
_BEGINNING: Final = 1000  # further on, messages repeat the prompt
_CONTENT_CODE: Final = re.compile(
    r"content[_ -]?(?:filter|polic|moderat|violat|block|safety|inspect)|moderat|flagged"
    r"|responsible_?ai|data_?inspection|guardrail|sensitive_(?:word|content)|prohibited_content"
    r"|(?:usage|misalignment|safety)_policy|safety_(?:violation|block|error|check)|unsafe_content"
)
_CONTENT_CODES: Final = frozenset(
    {
        "1301",  # Z.ai
        "invalid_prompt",  # OpenAI, of reasoning models: flagged
        "safety",
    }
)
_CONTENT_TEXT: Final = re.compile(
    r"content (?:management|filter(?:ing)?|moderation|usage) polic"  # Azure, Anthropic
    r"|violat\w{1,4} (?:\w{1,20} ){0,4}(?:usage|content|safety) (?:polic|guideline)"  # OpenAI, xAI
    r"|(?:input|prompt|content|request|message)s? (?:was|were|is|has been|have been) flagged"
    r"|requires moderation on|content exists risk"  # OpenRouter, DeepSeek
    r"|inappropriate content|(?:rejected|blocked) (?:by|as a result of) (?:\w{1,20} ){0,3}"
    r"(?:safety|content|guardrail|moderation)"  # Qwen, OpenAI
    r"|safety_check_type"  # xAI
)
_MODEL_CODES: Final = frozenset(
    {
        "1211",  # Z.ai
        "invalid_model",
        "invalid_model_name",
        "model_not_available",
        "model_not_exist",
        "model_not_found",
        "model_not_found_error",
        "modelnotfound",
        "no_such_model",
        "unknown_model",
    }
)
_QUOTED_NAME: Final = r"[`'\"]?[\w./:@+-]{1,200}[`'\"]?"
_MODEL_TEXT: Final = re.compile(
    r"invalid model(?:[ _](?:name|id|identifier))?(?: passed in model=|[:=]| [`'\"]|\s*$|\.)"
    r"|\b(?:unknown|unsupported|no such|nonexistent) model\b"
    r"|(?:could ?not|cannot|can't|unable to) find (?:the )?model\b"
    rf"|\bmodel(?:[ _](?:name|id))?(?:[:=]? {{0,2}}{_QUOTED_NAME})?,? "
    r"(?:(?:was |is |could )?not (?:be )?(?:found|exist\b|available on|a valid model)"
    r"|(?:does not|doesn't|do not) exist|is (?:invalid|unknown|not a known))"
    rf"|{_QUOTED_NAME} is not a valid model"  # OpenRouter
    r"|no healthy deployments?\b|no deployments? (?:found|available) for"  # LiteLLM's proxy
    r"|no (?:allowed )?(?:endpoints?|providers?) (?:found|available) for (?:the )?"
    rf"(?:model|{_QUOTED_NAME}[/:])"
    r"|llm provider not provided"  # LiteLLM
)


def names_content(details: ErrorDetails, status: int) -> bool:
    """Whether an error is about what the prompt or the answer says.

    Args:
        details: what the body says.
        status: the reply's HTTP status, or the one that its body names.
    """
    if status not in _MAY_BE_CONTENT:
        return False
    if details.names_content:
        return True
    for word in (details.code, details.type):
        if word and (word in _CONTENT_CODES or _CONTENT_CODE.search(word)):
            return True
    return bool(_CONTENT_TEXT.search(details.text[:_BEGINNING]))


def names_model(details: ErrorDetails, status: int) -> bool:
    """Whether an error says that there is no model of this name. Arguments as `names_content`."""
    if status not in _MAY_BE_MODEL:
        return False
    if details.code in _MODEL_CODES or details.type in _MODEL_CODES:
        return True
    return bool(_MODEL_TEXT.search(details.text[:_BEGINNING]))


PASSING_STATUS: Final[dict[int, type[errors.ProviderError]]] = {
    408: errors.RequestTimeoutError,
    409: errors.ConflictError,
    421: errors.ServerError,
    425: errors.ServerError,
    499: errors.RequestTimeoutError,
}
"""Statuses of 4xx that say nothing against the request: it is sent again."""

_PASSING_CAUSE: Final = re.compile(
    r"time[d_ -]*out|unavailable|overload|busy|temporar|capacity|upstream|not_?ready"
    r"|warm|loading|throttl|connection|server_error|internal_error"
)


def is_passing(details: ErrorDetails, status: int) -> bool:
    """Whether a 424 names a cause that passes. Arguments as `names_content`."""
    if status != 424:
        return False
    return any(word and _PASSING_CAUSE.search(word) for word in (details.code, details.type))
