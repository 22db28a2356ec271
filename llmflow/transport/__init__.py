"""HTTP transport: one session per event loop, for all providers.

aiohttp, because a request costs a tenth of the CPU it costs through httpx (figures
in ``benchmarks/README.md``). Every way in which it can fail is mapped onto
`llmflow.errors` in one table (`llmflow.transport.failures`). Importing it takes a while, so
what needs it is imported when it is asked for first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from llmflow.transport.connection_limit import (
    check_connections,
    connection_limit,
    how_to_have_more,
    raise_connection_limit,
)
from llmflow.transport.timeout import Timeout

__all__ = [
    "StreamChannel",
    "Timeout",
    "aclose",
    "check_connections",
    "connection_limit",
    "how_to_have_more",
    "raise_connection_limit",
    "send",
    "stream",
]

_WITH_AIOHTTP: Final = {
    "aclose": "http_session",
    "send": "http_session",
    "stream": "streams",
    "StreamChannel": "streams",
}

if TYPE_CHECKING:
    from llmflow.transport.http_session import aclose, send
    from llmflow.transport.streams import StreamChannel, stream
else:

    def __getattr__(name: str) -> Any:
        if name not in _WITH_AIOHTTP:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_WITH_AIOHTTP[name]}")
        found = globals()[name] = getattr(module, name)
        return found
