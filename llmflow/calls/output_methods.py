"""The method by which a call's schema is sent, and its refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmflow.calls.call import LiveCall
from llmflow.errors import ProviderError
from llmflow.provider import Provider
from llmflow.types import Request

if TYPE_CHECKING:
    from llmflow.typed.methods import Chosen


def method_of(provider: Provider, request: Request) -> Chosen | None:
    """Return how a request's schema is sent; None for one way only.

    Raises:
        ConfigurationError: it cannot be sent.
    """
    outputs, output = getattr(provider, "outputs", None), request.output
    if output is None or outputs is None:
        return None
    chosen: Chosen = outputs.chosen(output)
    return chosen


def refuses_method(provider: Any, call: LiveCall, error: ProviderError) -> bool:
    """Return whether an error refuses a method, and there is another.

    The next calls are sent by that one.
    """
    refuses = getattr(provider, "refuses_output", None)
    if refuses is None or not refuses(error, call.request):
        return False
    return bool(provider.outputs.refuse(call.request.output, call.chosen))
