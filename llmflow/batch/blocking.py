"""Work that blocks, done beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[..., _T], *args: Any) -> _T:
    """Run blocking work in a thread, or inline at the program's end."""
    try:
        done = asyncio.get_running_loop().run_in_executor(None, lambda: work(*args))
    except RuntimeError:
        return work(*args)
    return await done
