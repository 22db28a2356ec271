"""How the calls of one LLM reach their answers, and what makes two of them equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from llmflow.calls.call import Call, Mode, next_call_id
from llmflow.calls.plausible import plausible
from llmflow.errors import ConfigurationError, ContentFilterError, ProviderError
from llmflow.limits import Limiter
from llmflow.provider import Provider
from llmflow.surrogates import well_formed_value
from llmflow.types import Charge, MarkedPrefix, Request, Response, WireRequest

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.budget import Reservation
    from llmflow.cache import Cache
    from llmflow.calls.choice import Choice
    from llmflow.pricing import Price


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """What a run needs to know of an LLM.

    Args:
        provider: who answers.
        mode: how answers are got.
        limiter: whose admission its calls pass.
        price: returns what answers cost, or None if nobody knows.
        overrides_cost: whether that price goes before a cost that the provider reports.
        dedupe: whether equal calls in flight share one; None: where the temperature is 0.
        cache: where answers of earlier runs are taken from, and kept for later ones; or None.
        choice: the mode of its calls, whatever is chosen around them; None: what is.
        batch: what is set about its batch jobs; None for the defaults.
    """

    provider: Provider
    mode: Mode
    limiter: Limiter
    price: Callable[[], Price | None] = lambda: None
    overrides_cost: bool = False
    dedupe: bool | None = None
    cache: Cache | None = None
    choice: Choice | None = None
    batch: Batch | None = None

    def call(self, request: Request) -> Call:
        """Return the call that asks for this."""
        return Call(next_call_id(), request, self.encoded(request))

    def encoded(self, request: Request) -> WireRequest | None:
        """Return the request for the wire; None where the provider has a client of its own."""
        encode: Callable[[Request], WireRequest] | None = getattr(self.provider, "encode", None)
        return None if encode is None else encode(request)

    def shares(self, request: Request) -> bool:
        """Return whether equal calls may have one answer."""
        if self.cache is not None:
            return True
        return request.temperature == 0 if self.dedupe is None else self.dedupe

    @property
    def endpoint(self) -> str:
        """Where the provider is: another server's answers are other answers."""
        return getattr(self.provider, "endpoint", None) or ""

    def marked_prefix(self, request: Request) -> MarkedPrefix | None:
        """Return the beginning that a request wants the provider to keep; None if there is none."""
        find: Callable[[Request], MarkedPrefix | None] | None
        find = getattr(self.provider, "marked_prefix", None)
        return None if find is None else find(request)

    @property
    def has_public_price(self) -> bool:
        """Whether its answers cost what the price list that comes along says."""
        price = self.price()
        if price is None or price.is_free:
            return False
        from llmflow.pricing import price_of

        model = f"{self.provider.name}/{self.provider.model}"
        return price == price_of(model, base_url=self.endpoint or None)

    def priced(
        self,
        response: Response,
        request: Request | None,
        *,
        in_batch: bool,
        reserved: Reservation | None = None,
    ) -> Response:
        """Return an answer with what it cost, if anybody knows.

        Args:
            response: the answer.
            request: what was asked, where that is known.
            in_batch: whether a batch job brought it.
            reserved: what was reserved for it, where the request is not known.
        """
        if in_batch:  # of live calls, the mode has looked at the usage before the limiter
            charge = None if reserved is None else Charge(tokens=reserved.estimate.tokens)
            if request is not None:
                charge = self.provider.reserve(request)
            response = plausible(response, self.provider, charge)
        if response.cost is not None and not self.overrides_cost:
            return response
        price = self.price()
        if price is None:
            return response
        return replace(response, cost=price.cost(response.usage, batch=in_batch))

    def price_failure(self, error: ProviderError, *, in_batch: bool) -> None:
        """Note on an error what it cost: an answer that was stopped is paid for, too."""
        if not isinstance(error, ContentFilterError) or error.usage is None:
            return
        price = self.price()
        if price is not None and (error.cost is None or self.overrides_cost):
            error.cost = price.cost(error.usage, batch=in_batch)

    def body(self, call: Call) -> bytes:
        """Return what is asked, as the same bytes in every process.

        Raises:
            ConfigurationError: an option of the call cannot be written down.
        """
        return canonical(call.request) if call.wire is None else call.wire.body


def server_of(provider: Provider) -> str:
    """Return what tells a provider's server from others of its name; only ever hashed.

    It is the endpoint, unless the provider has a `server`: the environment may decide who answers.
    """
    return getattr(provider, "server", None) or getattr(provider, "endpoint", None) or ""


def canonical(request: Request) -> bytes:
    """Write a request as bytes that are the same in every process.

    >>> from llmflow.types import Request
    >>> canonical(Request(model="m", messages=({"role": "user", "content": "Hi"},)))
    b'[[{"role":"user","content":"Hi"}],null,null,null,{}]'

    Raises:
        ConfigurationError: an option cannot be written down.
    """
    parts = [
        request.messages,
        request.system,
        request.max_tokens,
        request.temperature,
        dict(request.options),
    ]
    try:
        return orjson.dumps(parts, default=_described)
    except TypeError as error:
        try:
            parts = well_formed_value(parts)
            try:
                return orjson.dumps(parts, default=_described)
            except TypeError:
                import json  # what orjson refuses and JSON can say, such as a large number

                return json.dumps(parts, default=_described).encode()
        except (TypeError, ValueError, RecursionError):
            raise ConfigurationError(
                f"the request cannot be kept in a journal or cache: {error}"
            ) from error


def _described(value: Any) -> Any:
    """Return what stands for an object: the schema of a model class, the fields of an object."""
    schema = getattr(value, "model_json_schema", None)
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        return [name, schema()] if schema is not None else name
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if hasattr(value, "items"):
        return dict(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
