"""The key of a call, from its request and its route."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from llmflow.errors import ConfigurationError
from llmflow.parts import VALUES, plain
from llmflow.surrogates import well_formed_value

if TYPE_CHECKING:
    from llmflow.provider import Provider
    from llmflow.types import Request

SIZE: Final = 16
"""Bytes of a fingerprint: of 10 billion questions, two have the same with a chance of 1e-19."""


def server_of(provider: Provider) -> str:
    """Return a server's identity among its provider's, for hashing only.

    It is the endpoint, unless the provider has a `server`: the environment may decide who answers.
    """
    return getattr(provider, "server", None) or getattr(provider, "endpoint", None) or ""


def fingerprint(*, provider: str, endpoint: str, model: str, body: bytes) -> bytes:
    """Return a question's fingerprint: equal for equal ones, in every process.

    >>> fingerprint(provider="sim", endpoint="", model="demo", body=b"{}").hex()
    'b0cd8ad8f0de0d527f29fb6aeee1b7ad'

    Args:
        provider: the provider's name.
        endpoint: where it is.
        model: the model's name there.
        body: the whole request: every message and every parameter.
    """
    digest = _begun(provider, endpoint, model).copy()
    digest.update(body)
    return digest.digest()


@lru_cache(maxsize=64)
def _begun(provider: str, endpoint: str, model: str) -> blake2b:
    """Return the digest of what the questions to a model have in common; it is not changed."""
    # The lengths keep the parts apart, whatever they hold.
    head = f"{len(provider)} {len(endpoint)} {len(model)} {provider}{endpoint}{model}"
    return blake2b(head.encode("utf-8", "surrogatepass"), digest_size=SIZE)


def canonical(request: Request) -> bytes:
    """Write a request as bytes that are the same in every process.

    Of images and documents it holds a digest.

    >>> from llmflow.types import Request
    >>> canonical(Request(model="m", messages=({"role": "user", "content": "Hi"},)))
    b'[[{"role":"user","content":"Hi"}],null,null,null,{}]'

    Raises:
        ConfigurationError: an option cannot be written down.
    """
    options = request.options
    parts: list[Any] = [
        request.messages,
        request.system,
        request.max_tokens,
        request.temperature,
        options if type(options) is dict else dict(options),
    ]
    if request.wanted:
        parts.append(request.wanted)
    try:
        return _dumped(parts)
    except TypeError as error:
        try:
            parts = well_formed_value(parts)
            try:
                return _dumped(parts)
            except TypeError:
                import json  # what orjson refuses and JSON can say, such as a large number

                return json.dumps(parts, default=_described).encode()
        except (TypeError, ValueError, RecursionError):
            raise ConfigurationError(
                f"the request cannot be kept in a journal or cache: {error}"
            ) from error


def _dumped(value: Any) -> bytes:
    return orjson.dumps(value, default=_described, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _described(value: Any) -> Any:
    """Return what stands for an object: the schema of a model class, the fields of an object."""
    if type(value) in VALUES:
        return plain(value, _digest)
    schema = getattr(value, "model_json_schema", None)
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        return [name, schema()] if schema is not None else name
    if is_dataclass(value):
        return orjson.Fragment(orjson.dumps(value, default=_described))
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if hasattr(value, "items"):
        return dict(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=SIZE).hexdigest()
