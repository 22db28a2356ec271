"""Replies are looked at before litellm reads them, as llmflow's own providers read them.

litellm (read: 1.106) takes an ending that it does not know for ``stop``, drops an error beside
an answer, and refuses JSON that is not strict and usage that cannot be: answers were lost that
had been paid for, and failures became answers. What is odd is put right here, or raised as the
error that it is. An ordinary reply costs one more look into its JSON.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from llmflow import lenient_json
from llmflow.errors import ProviderError
from llmflow.types import WireReply
from llmflow_providers import error_patterns as endings
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.base import EMPTY, mapping, said
from llmflow_providers.litellm.exceptions import lower_headers, quota_signals, vendor_dialect
from llmflow_providers.litellm.redirects import Look
from llmflow_providers.openai import OpenAIProvider

_OPENAI_COUNTS: Final[tuple[str, ...]] = ("prompt_tokens", "completion_tokens", "total_tokens")
_ANTHROPIC_COUNTS: Final[tuple[str, ...]] = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
# Nobody is there: what reads a reply sends nothing.
_NOWHERE: Final = "http://litellm.invalid/v1"


def looking(model: str, key: str | None) -> Look:
    """Return what looks at the replies to a call.

    Args:
        model: the model's name at litellm.
        key: to be masked in errors.
    """

    def look(reply: Any) -> None:
        """Put the reply's body right; raise the failure that it is."""
        status = getattr(reply, "status_code", None)
        if not (isinstance(status, int) and 200 <= status < 300):
            return
        body = getattr(reply, "_content", None)  # of httpx, httpx2 and requests
        if not isinstance(body, bytes):
            return  # a stream
        found = _read(body)
        if found is None:
            return
        data, mended = found
        if _is_odd(data):
            _raise_failure(WireReply(status, lower_headers(reply.headers), body, 0.0), model, key)
        if _mend_usage(data) or mended:
            reply._content = orjson.dumps(data)

    return look


def _read(body: bytes) -> tuple[dict[str, Any], bool] | None:
    """Return the object that a body holds, and whether a strict reader refuses it."""
    try:
        data = orjson.loads(body)
        is_strict = True
    except orjson.JSONDecodeError:
        try:
            data = lenient_json.loads(body)
            orjson.dumps(data)  # numbers that are too large stay as they are
        except (ValueError, TypeError):
            return None
        is_strict = False
    return (data, not is_strict) if isinstance(data, dict) else None


def _is_odd(data: Mapping[str, Any]) -> bool:
    """Whether there is an error, or an ending that may be a failure."""
    if data.get("error"):
        return True
    ending = data.get("stop_reason")
    if _is_bad(ending):
        return True
    choices = data.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else EMPTY
    return bool(choice.get("error")) or _is_bad(choice.get("finish_reason"))


def _is_bad(ending: Any) -> bool:
    if not isinstance(ending, str) or ending in endings.WHOLE:
        return False
    return endings.is_failure(ending) or endings.is_filtered(ending)


def _raise_failure(reply: WireReply, model: str, key: str | None) -> None:
    """Raise what the native provider finds; its answers are left to litellm."""
    dialect = vendor_dialect(model)
    reply = reply._replace(received_at=time.time())
    native: OpenAIProvider | AnthropicProvider
    if dialect.name == "anthropic":
        native = AnthropicProvider(model, base_url=_NOWHERE, api_key=key or "")
    else:
        native = OpenAIProvider(model, base_url=_NOWHERE, api_key=key or "")
        native.dialect = dialect
    try:
        native.decode(reply)
    except ProviderError as error:
        error.signals = quota_signals(reply.headers, dialect=dialect, received_at=reply.received_at)
        raise error from None


def _mend_usage(data: dict[str, Any]) -> bool:
    """Take out of an answer what cannot be its usage; return whether there was any."""
    if isinstance(data.get("choices"), list):
        names, others = _OPENAI_COUNTS, ("prompt_tokens_details", "completion_tokens_details")
        is_needed = False
    elif data.get("type") == "message":
        names, others = _ANTHROPIC_COUNTS, ("cache_creation", "server_tool_use")
        is_needed = True  # litellm reads no message without it
    else:
        return False
    usage = data.get("usage")
    if usage is None and not is_needed:
        return False
    if not isinstance(usage, dict) or not said(*[usage.get(each) for each in names]):
        data["usage"] = dict.fromkeys(names, 0)
        return True
    missing = [each for each in names[:2] if usage.get(each) is None] if is_needed else []
    usage.update(dict.fromkeys(missing, 0))
    odd = [each for each in others if each in usage and not _is_sound(usage[each])]
    for each in odd:
        del usage[each]
    return bool(odd or missing)


def _is_sound(details: Any) -> bool:
    if details is None:
        return True
    if not isinstance(details, dict):
        return False
    return said(*[each for each in details.values() if not isinstance(each, dict)])
