"""A call as a row of a batch job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from llmflow.batch.queue import Identity, Queue
from llmflow.calls.call import Call, Route
from llmflow.calls.key import server_of
from llmflow.errors import BatchUnsupportedError, ProviderError
from llmflow.types import Charge, Response

_DIGEST: Final = 8


def put_row(queue: Queue, call: Call, name: str, *, say: Callable[[str, Route], None]) -> Charge:
    """Collect a call for a job; return its charge if live.

    Args:
        queue: what makes jobs of files.
        call: the call; what it sends is on the disk then.
        name: what the row is called.
        say: hears of decisions.

    Raises:
        BatchUnsupportedError: the provider has a client of its own.
        InvalidRequestError: the row is larger than a job may be.
        JournalError: it cannot be written.
    """
    route = call.route
    wire = route.encoded(call.request)
    if wire is None:
        raise unsupported(route)
    charge = route.provider.reserve(call.request)
    queue.add(
        name,
        queue.control.api.line(name, wire),
        tokens=charge.input_tokens or charge.tokens,
        schema=_schema(call.request.options) if queue.limits.uniform_schema else "",
        prefix=_prefix(call, say) if queue.settings.primer else None,
    )
    return charge


def unsupported(route: Route) -> ProviderError:
    """Return the error of a provider without a batch API."""
    provider = route.provider
    return BatchUnsupportedError(
        "llmflow knows no batch API of this provider",
        provider=provider.name,
        model=provider.model,
    )


def supports(route: Route) -> bool:
    """Return whether the provider has a batch API."""
    return getattr(route.provider, "batch", None) is not None


def identity_of(route: Route) -> Identity:
    """Return the identity of a model's batch queue, without the key."""
    provider = route.provider
    text = "\n".join((provider.name, server_of(provider), provider.model))
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()
    return Identity(key=digest, provider=provider.name, model=provider.model)


def _prefix(call: Call, say: Callable[[str, Route], None]) -> bytes | None:
    """Return what tells a marked beginning from others, if a primer pays for it."""
    route = call.route
    marked = route.marked_prefix(call.request)
    if marked is None:
        return None
    price = route.price()
    if price is not None and price.saved_by_cache(marked, batch=True):
        return marked.digest
    say("no cache primer: no price says that it saves anything", route)
    return None


def _schema(options: Mapping[str, Any]) -> str:
    """Return what tells the JSON schema that a call wants from others."""
    wanted = {
        name: options[name] for name in ("response_format", "output_config") if name in options
    }
    if not wanted:
        return ""
    import orjson

    try:
        text = orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS, default=str)
    except TypeError:
        text = repr(wanted).encode()
    return blake2b(text, digest_size=_DIGEST).hexdigest()


async def ask_live(call: Call) -> Response:
    """Ask a batch row's call in parallel, at that price.

    Raises:
        ProviderError: it failed for good.
        BudgetExceededError: a live call does not fit into the budget.
    """
    if call.payment is not None:
        await call.payment.go_live()
    return await call.route.mode.complete(call)
