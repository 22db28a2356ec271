"""The key of a call, from its request and its route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from llmflow.errors import ConfigurationError
from llmflow.surrogates import well_formed_value

if TYPE_CHECKING:
    from llmflow.provider import Provider
    from llmflow.types import Request


def server_of(provider: Provider) -> str:
    """Return a server's identity among its provider's, for hashing only.

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
