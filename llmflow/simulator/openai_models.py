"""Sampling settings that models of the OpenAI dialect take, by their names.

Names that are not documented, such as those of tests, take every setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from llmflow.simulator.openai_errors import OpenAIError

Reasoning = Literal["always", "by_effort", "never"]
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONING = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d))(?:$|[.-])")
_PLAIN = re.compile(r"(?:gpt-(?:3\.5|4)(?:$|[.o-])|chatgpt-4o|gpt-5-chat(?:$|-))")
# Those that can be asked not to reason, and do not unless they are asked to.
_CAN_REST = re.compile(r"gpt-(?:5\.[1-6](?:-mini|-nano)?|6-sol|6-luna|6\.1-terra)$")
_STOP_ALLOWED = re.compile(r"o1(?:$|-)|o3-mini(?:$|-)")
_AT_REST: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
}
_SAMPLING = frozenset((*_AT_REST, "temperature"))
_LIMITED = _SAMPLING | {"max_tokens", "stop", "reasoning_effort"}


@lru_cache(maxsize=256)
def reasoning(model: str) -> Reasoning | None:
    """Return whether a documented model reasons; None for a name that is not documented.

    >>> reasoning("o3"), reasoning("gpt-5.1"), reasoning("gpt-4.1-mini"), reasoning("simulated")
    ('always', 'by_effort', 'never', None)
    """
    name = _SNAPSHOT.sub("", model.rpartition("/")[2])
    if _PLAIN.match(name):
        return "never"
    if not _REASONING.match(name):
        return None
    return "by_effort" if _CAN_REST.match(name) else "always"


def check_model(model: str, body: Mapping[str, Any]) -> None:
    """Raise the refusal of a setting that the model does not take."""
    kind = reasoning(model)
    if kind is None or _LIMITED.isdisjoint(body):
        return
    effort = body.get("reasoning_effort")
    if kind == "never":
        if effort is not None:
            raise OpenAIError(400, "Unrecognized request argument supplied: reasoning_effort")
        return
    if body.get("max_tokens") is not None:
        raise _unsupported("max_tokens", "Use 'max_completion_tokens' instead.")
    if effort == "none" and kind == "always":
        raise _unsupported_value("reasoning_effort", "none", "Choose an effort of reasoning.")
    if body.get("stop") is not None and not _STOP_ALLOWED.match(model.rpartition("/")[2]):
        raise _unsupported("stop")
    if kind == "always" or effort not in (None, "none"):
        _check_sampling(body)


def _check_sampling(body: Mapping[str, Any]) -> None:
    temperature = body.get("temperature")
    if temperature not in (None, 1):
        raise _unsupported_value(
            "temperature", temperature, "Only the default (1) value is supported."
        )
    for name, defaults in _AT_REST.items():
        value = body.get(name)
        if value is not None and value not in defaults:
            raise _unsupported(name)


def _unsupported(name: str, remedy: str = "") -> OpenAIError:
    message = f"Unsupported parameter: '{name}' is not supported with this model. {remedy}"
    return OpenAIError(400, message.rstrip(), param=name, code="unsupported_parameter")


def _unsupported_value(name: str, value: object, remedy: str) -> OpenAIError:
    shown = f"'{value}'" if isinstance(value, str) else value
    message = f"Unsupported value: '{name}' does not support {shown} with this model. {remedy}"
    return OpenAIError(400, message, param=name, code="unsupported_value")
