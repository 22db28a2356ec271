"""The fingerprint of a question: equal questions have equal ones."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

SIZE = 16
"""Bytes of a fingerprint: of 10 billion questions, two have the same with a chance of 1e-19."""


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
