"""Client of a provider's batch API: paced, repeated where that is safe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from llmflow.calls.refusals import is_of_all
from llmflow.clock import Clock
from llmflow.errors import ProviderError
from llmflow.provider import BatchAPI, BatchInput, BatchStatus, Channel, FileBounds, Upload
from llmflow.retry import backoff
from llmflow.types import WireReply, WireRequest

_T = TypeVar("_T")

_ATTEMPTS: Final = 8
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
# A job that was made a moment ago is not everywhere yet. In units of the first look's delay.
_LOOKS: Final = (0.1, 0.5, 1.5)
# How long a refusal of what has worked is given to pass. In the same units.
_REFUSED_PAUSE: Final = 0.5


class CreateLock(asyncio.Lock):
    """Lets the schedulers of one account create one job at a time.

    Where jobs have no tag, one that was made without anybody hearing of it is told from others
    because it is the only one that nobody knows. So nobody else may make one meanwhile.

    Attributes:
        known: the provider's names of all jobs that were created here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: set[str] = set()


_shared: Final[
    WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[Hashable, CreateLock]]
] = WeakKeyDictionary()


def create_lock_at(account: Hashable) -> CreateLock:
    """Return the lock of this account on the running loop."""
    by_account = _shared.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    found = by_account.get(account)
    if found is None:
        found = by_account[account] = CreateLock()
    return found


class BatchClient:
    """The calls for one scheduler.

    Args:
        api: the provider's.
        channel: the way to it.
        clock: where time and sleep come from.
        rng: where jitter comes from.
        poll: seconds until the first look at a job; other waits are measured by it.
        account: what tells the place where jobs are made from others, where that is known.
    """

    def __init__(
        self,
        api: BatchAPI,
        channel: Channel,
        *,
        clock: Clock,
        rng: random.Random,
        poll: float,
        account: Hashable = None,
    ) -> None:
        self.create_lock = create_lock_at(account or object())
        self.api = api
        self.channel = channel
        self._clock = clock
        self._rng = rng
        self.poll = poll
        self.trouble: ProviderError | None = None
        """What went wrong with the last request, if that is to be repeated."""
        self.has_worked = False  # of key and model: whether there is a job
        self._wait = min(_FIRST_WAIT, poll)

    async def upload(self, rows: BatchInput) -> str | None:
        """Upload a file. A second upload costs nothing."""
        return await self._repeat(lambda: self.api.upload(rows, self.channel))

    async def create(self, rows: BatchInput, uploaded: str | None) -> BatchStatus:
        """Create a job; not repeated here, as it may be created."""
        made = await self._heard(self.api.create(rows, uploaded, self.channel))
        self.has_worked = True
        return made

    async def back_off(self, attempt: int, error: ProviderError) -> None:
        """Wait before a call is repeated."""
        seconds = backoff(attempt, initial=self._wait, maximum=_LONGEST_WAIT, rng=self._rng)
        if is_of_all(error):
            seconds = self.poll * _REFUSED_PAUSE
        await self._clock.sleep(max(seconds, error.retry_after or 0.0))

    async def find(self, rows: BatchInput, known: Collection[str]) -> BatchStatus | None:
        """Search for a job that may exist, repeatedly: lists lag behind."""
        for factor in _LOOKS:
            await self._clock.sleep(self.poll * factor)
            found = await self._repeat(lambda: self.api.find(rows, known, self.channel))
            if found is not None:
                return found
        return None

    async def status(self, job: str) -> BatchStatus:
        """Ask for a job's status once; the next poll is near."""
        status = await self._heard(self.api.status(job, self.channel))
        self.has_worked = True
        return status

    async def cancel(self, job: str) -> None:
        """Ask for the end of a job."""
        await self._repeat(lambda: self.api.cancel(job, self.channel))

    async def fetch(self, status: BatchStatus, folder: Path, bounds: FileBounds) -> Sequence[Path]:
        """Bring an ended job's results here.

        Raises:
            ResultsTooLargeError: a file of them is above the bounds.
        """
        channel = _Bounded(self.channel, bounds)
        return await self._repeat(lambda: self.api.fetch(status, folder, channel))

    async def clean_up(self, status: BatchStatus) -> None:
        """Delete what nobody needs any more, if that can be done."""
        await self._repeat(lambda: self.api.clean_up(status, self.channel), attempts=2)

    async def _heard(self, sending: Awaitable[_T]) -> _T:
        """Note whether the provider is there, for whoever looks on."""
        try:
            reply = await sending
        except ProviderError as error:
            self.trouble = error if error.transient else None
            raise
        self.trouble = None
        return reply

    async def _repeat(self, send: Callable[[], Awaitable[_T]], *, attempts: int = _ATTEMPTS) -> _T:
        attempt, has_probed = 0, False
        while True:
            attempt += 1
            try:
                return await self._heard(send())
            except ProviderError as error:
                # A key that has worked is not wrong because a gateway restarts; the second
                # refusal of the same call is believed.
                probes = self.has_worked and is_of_all(error) and not has_probed
                if not (error.transient or probes) or attempt >= attempts:
                    raise
                has_probed = has_probed or probes
                await self.back_off(attempt, error)


class _Bounded:
    """A channel whose files have bounds, for adapters that know of none.

    Args:
        channel: the way to the provider.
        bounds: of each file.
    """

    def __init__(self, channel: Channel, bounds: FileBounds) -> None:
        self._channel = channel
        self._bounds = bounds

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        return await self._channel.send(wire, body)

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        return await self._channel.fetch(wire, path, bounds or self._bounds)
