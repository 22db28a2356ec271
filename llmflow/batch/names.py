"""A row's name: what it asks, and for which time.

The name says all that is needed to give an answer to whom it belongs, in any later process:
no list of rows has to be kept beside a job. It fits every provider (at most 64 characters of
``A-Z a-z 0-9 - _``, and no number).
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"r([0-9a-f]{32})-(\d{1,18})")


def name_of(fingerprint: bytes, nth: int) -> str:
    """Return the ``custom_id`` of a call.

    >>> name_of(bytes(16), 2)
    'r00000000000000000000000000000000-2'
    """
    return f"r{fingerprint.hex()}-{nth}"


def call_of(name: str) -> tuple[bytes, int] | None:
    """Return the fingerprint and ordinal of a ``custom_id``, or None.

    >>> call_of("r00000000000000000000000000000000-2")[1], call_of("request-7")
    (2, None)
    """
    found = _NAME.fullmatch(name)
    return None if found is None else (bytes.fromhex(found[1]), int(found[2]))
