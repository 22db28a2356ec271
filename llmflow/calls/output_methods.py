"""The method by which a call's schema is sent, and its refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from llmflow.errors import ProviderError
from llmflow.parts import OutputSchema
from llmflow.provider import Provider
from llmflow.types import Request, Response

if TYPE_CHECKING:
    from llmflow.calls.call import Call
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


def refuses_method(provider: Any, request: Request, sent: Chosen, error: ProviderError) -> bool:
    """Return whether an error refuses a method, and there is another.

    The next calls are sent by that one.
    """
    refuses = getattr(provider, "refuses_output", None)
    if refuses is None or not refuses(error, request):
        return False
    return bool(provider.outputs.refuse(request.output, sent))


def note_answer(provider: Any, request: Request, sent: Chosen, *, is_certain: bool) -> None:
    """Note that a request's method has given an answer.

    Args:
        provider: the provider that was asked.
        request: the request.
        sent: its method when it was asked.
        is_certain: whether it was sent so. Else it may have waited while another method took the
            place of this one, which then does not count.
    """
    outputs, output = provider.outputs, request.output
    if is_certain or outputs.chosen(output) is sent:
        outputs.answered(output, sent)


class Sent(NamedTuple):
    """A request without its messages, and its schema's method."""

    provider: Any
    request: Request
    chosen: Chosen


class RefusedRows:
    """Decides which rows of jobs are asked again, for a refused method.

    Live calls find that out by themselves. A job's rows have failed by then, and are written down
    so: they are asked again as the same question, under the next number.
    """

    def __init__(self) -> None:
        self._last: Sent | None = None
        self._known: dict[int, tuple[OutputSchema, bool]] = {}

    def sent(self, call: Call) -> Sent | None:
        """Return how a call's schema is sent; None for one way only.

        Raises:
            ConfigurationError: it cannot be sent.
        """
        provider, request, last = call.route.provider, call.request, self._last
        chosen = method_of(provider, request)
        if chosen is None:
            return None
        if (
            last is None
            or last.chosen is not chosen
            or last.provider is not provider
            or last.request.options is not request.options
            or last.request.output is not request.output
        ):
            last = self._last = Sent(provider, replace(request, messages=()), chosen)
        return last

    def answered(self, sent: Sent | None, response: Response) -> None:
        """Note the method of a row's answer."""
        if sent is not None and response.source == "provider":
            note_answer(sent.provider, sent.request, sent.chosen, is_certain=False)

    def asks_again(self, sent: Sent, error: ProviderError) -> bool:
        """Return whether a failed row is asked by another method.

        Of what the journal holds nobody knows how it was sent: there the present method counts
        as refused, once.
        """
        provider, request, chosen = sent
        if error.source != "journal":
            return refuses_method(provider, request, chosen, error)
        output = request.output
        refuses = getattr(provider, "refuses_output", None)
        if output is None or refuses is None or not refuses(error, request):
            return False
        known = self._known.get(id(output))
        if known is None or known[0] is not output:
            is_left = bool(provider.outputs.refuse(output, chosen))
            known = self._known[id(output)] = output, is_left
        return known[1]
