"""Recognises servers that do not know how an answer's schema was sent.

The texts are those of real servers, seen in reports of their users (2024 to 2026).
"""

from __future__ import annotations

import re
from typing import Final

from llmflow.errors import (
    BadGenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    ProviderError,
)
from llmflow.types import Request
from llmflow_providers.typed_output import TOOL_OPTIONS

_STATUSES: Final = frozenset({None, 400, 404, 405, 422, 501})
_BEGINNING: Final = 500  # further on, messages repeat the request
# OpenAI, Azure, Groq, DeepSeek, Volcengine, LM Studio ("'response_format.type' must be ..."),
# Mistral's and vLLM's 422; Anthropic ("output_config: Extra inputs are not permitted",
# "does not support output format", "compiled grammar is too large"); vLLM's backends.
_FORMAT: Final = re.compile(
    r"response[_ ]?format|json[_ -]?(?:schema|object|mode)\b|\boutput[_ ](?:config|format)"
    r"|structured[_ -]?outputs?|\bgrammar\b|guided[_ ](?:json|decoding|generation)"
    r"|(?:invalid|unsupported|response|output|input|the|this) ?_?schema\b"
    r"|\bschemas? (?:is|has|contains?|type|with|must|uses)\b"
    r"|xgrammar|response_mime_type|responsejsonschema"
)
# "Thinking mode does not support this tool_choice", "No endpoints found that support tool use",
# '"auto" tool choice requires --enable-auto-tool-choice', "... does not support tools".
_TOOL: Final = re.compile(
    r"\btool[_ -]?(?:choices?|calls?|calling|use|config)\b|\btools\b"
    r"|\bfunction[_ -]?call(?:s|ing)?\b|\bfunctions\b|forces tool"
)
# OpenRouter, where no server behind it takes all of a request's fields.
_PARAMETERS: Final = re.compile(r"no endpoints found that (?:support|can handle)")


def refuses_output(error: ProviderError, request: Request) -> bool:
    """Return whether a server refuses how a schema was sent.

    Only the words count: another method may be in use since the request was sent.

    Args:
        error: what became of the request.
        request: what was sent; it wants an output schema.
    """
    if isinstance(error, BadGenerationError) or error.status not in _STATUSES:
        return False
    text = error.message[:_BEGINNING].lower()
    if type(error) is ModelNotFoundError:
        return bool(_PARAMETERS.search(text))
    if not isinstance(error, InvalidRequestError):
        return False
    if _FORMAT.search(text) or _PARAMETERS.search(text):
        return True
    has_own_tools = any(name in request.options for name in TOOL_OPTIONS)
    return bool(_TOOL.search(text)) and not has_own_tools
