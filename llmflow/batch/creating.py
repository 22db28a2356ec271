"""One creation at a time, for all queues of one account.

Where jobs have no tag, one that was made without anybody hearing of it is told from others
because it is the only one that nobody knows. So nobody else may make one meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final
from weakref import WeakKeyDictionary, WeakValueDictionary


class Creating:
    """State shared by the queues of one account.

    Attributes:
        lock: held while a job is created.
        known: the provider's names of all jobs that were created here.
    """

    __slots__ = ("__weakref__", "known", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.known: set[str] = set()


_shared: Final[
    WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[Hashable, Creating]]
] = WeakKeyDictionary()


def creating_at(account: Hashable) -> Creating:
    """Return the state of this account's queues on the running loop."""
    by_account = _shared.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    found = by_account.get(account)
    if found is None:
        found = by_account[account] = Creating()
    return found
