"""Step 3: give a call its key; answer it from its journal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from llmflow.calls.call import NOTHING, Call, RowKey, Step
from llmflow.calls.in_flight import copied_error
from llmflow.errors import ConfigurationError, JournalError, UsageError
from llmflow.parts import VALUES, OutputSchema, plain
from llmflow.surrogates import well_formed_value
from llmflow.types import Request, Response

if TYPE_CHECKING:
    import sqlite3

    from llmflow.journal import JournalProtocol, Recorded
    from llmflow.provider import Provider

SIZE: Final = 16
"""Bytes of a fingerprint: of 10 billion questions, two have the same with a chance of 1e-19."""
# Of a program that asks again for ever, what the journal remembers is enough.
_MOST: Final = 100_000
_ASK: Final = (
    "INSERT INTO asked VALUES (?, 0) "
    "ON CONFLICT (fingerprint) DO UPDATE SET times = times + 1 RETURNING times"
)
_PUT: Final = "INSERT INTO asked VALUES (?, ?)"
_NEW_AT_ONCE: Final = 20_000
_BITS: Final = 2**26
"""Of ten million questions, one in thirteen meets the bit of another one on the average."""
_IN_MEMORY: Final = 100_000
"""Questions that are counted in a dictionary, of some 110 bytes each."""
_PAGES: Final = -8000
"""How much of the file stays in memory: SQLite's `cache_size`, here in KiB."""
# While so many are looked up, the event loop stands still for some milliseconds.
_AT_ONCE: Final = 500
_MOST_SCHEMAS: Final = 256
_SCHEMAS: Final[dict[int, tuple[OutputSchema, bytes]]] = {}
"""Schemas as JSON, by the identity of the object, which is kept beside it."""
_Turn: TypeAlias = "tuple[list[RowKey], asyncio.Task[Mapping[RowKey, Recorded]]]"


def replay(ordinals: Ordinals, outcome: Callable[[Recorded], Response], ask: Step) -> Step:
    """Return the step that looks a call up in the journal.

    `outcome` returns or raises what is recorded of a call, and counts it.
    """

    async def step(call: Call) -> Response:
        found = None
        if not call.key:  # else it was looked up before, and nothing is known
            found = await ordinals.find(call) if ordinals.waits else ordinals.identify(call)
        if found is None:
            return await ask(call)
        return outcome(found) if call.wanted else NOTHING

    return step


class LookUps:
    """Makes one look-up of those of one turn of an event loop."""

    def __init__(self, journal: JournalProtocol) -> None:
        self._journal = journal
        self._turns: dict[asyncio.AbstractEventLoop, _Turn] = {}

    async def find(self, row: RowKey) -> Recorded | None:
        """Look a row up, together with others of the same turn."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None or turn[1].done():  # cancelled before it began
            rows: list[RowKey] = []
            # Not by loop.create_task: an eager task factory would look up nothing, here and now.
            turn = self._turns[loop] = rows, asyncio.Task(self._find(loop, rows), loop=loop)
        turn[0].append(row)
        try:
            return (await asyncio.shield(turn[1])).get(row)
        except Exception as error:  # noqa: BLE001 - of any journal; each caller adds a traceback
            raise copied_error(error) from error.__cause__

    async def _find(
        self, loop: asyncio.AbstractEventLoop, rows: list[RowKey]
    ) -> Mapping[RowKey, Recorded]:
        del self._turns[loop]
        return await self._journal.find_many(rows)


class Ordinals:
    """Numbers equal calls of a session, and finds their outcomes.

    Submitted calls are numbered apart from others: a program that submits all of its calls, and
    asks them again later, finds the answers in the journal. A number that got no answer goes to
    the next equal call, the lowest first: else a node that asks again after a time-out would
    leave a place without an answer, to be asked for in every session.

    Args:
        journal: where outcomes are looked up; None where nothing is written down.
        retry_failed: ask again what the journal knows as failed in an earlier session.
        abandoned: returns, once, keys and ordinals of calls whose event loops were closed.
    """

    def __init__(
        self,
        journal: JournalProtocol | None,
        *,
        retry_failed: bool,
        abandoned: Callable[[], Iterable[tuple[Any, set[int]]]],
    ) -> None:
        self.journal = journal
        self.waits = journal is not None and not journal.is_local
        """Whether it is better to wait for the journal than to block."""
        self._look_ups = None if journal is None else LookUps(journal)
        self._retry_failed = retry_failed
        self._abandoned = abandoned
        # Again by its own thread: a call may be collected at any line, the locked ones among them.
        self._lock = threading.RLock()
        self._free: dict[bytes, list[int]] = {}
        self._unwritten: dict[bytes, int] = {}
        self._twins: dict[bytes, int] = {}
        self._asked = Asked()
        self._submitted: Asked | None = None
        self._has_asked = self._has_begun_again = False

    def identify(self, call: Call, *, submitted: bool = False) -> Recorded | None:
        """Set a call's key and ordinal; return its journal record.

        With `submitted`, it is numbered as if it wanted no result.

        Raises:
            ConfigurationError: an option of the call cannot be written down.
            UsageError: it wants no result, and there is no journal for its answer.
        """
        may_be_known = self._number(call, submitted=submitted)
        return self.recorded(call.row) if may_be_known else None

    async def known(self, calls: Sequence[Call]) -> Mapping[RowKey, Recorded]:
        """Set keys and ordinals of calls; return their records."""
        rows = [call.row for call in calls if self._number(call)]
        return await self.recorded_many(rows) if rows else {}

    async def find(self, call: Call) -> Recorded | None:
        """Do what `identify` does, in one look-up with other calls."""
        if self._look_ups is None or not self._number(call):
            return None
        try:
            found = await self._look_ups.find(call.row)
        except BaseException:
            self.give_back(call, (call.ordinal,))
            raise
        return None if found is None or self._is_asked_again(found) else found

    async def goes_on(self, call: Call) -> bool:
        """Return whether a call is asked whose question follows a known failure.

        It is if an earlier session has asked it, or if failures are to be asked again.
        """
        if self.journal is None or self._retry_failed:
            return self._retry_failed
        found = await self.find(call) if self.waits else self.identify(call)
        self.give_back(call, (call.ordinal,))
        call.key, call.ordinal = b"", 0  # the step looks it up once more, and counts it
        return found is not None

    def _number(self, call: Call, *, submitted: bool = False) -> bool:
        """Set a call's key and ordinal; return whether it may have a record."""
        key = call.key = self.fingerprint(call)
        journal, cache = self.journal, call.route.cache
        if call.shares:
            for (other, its_cache), places in self._abandoned():
                if its_cache is None:
                    self.free(other, places)
        if submitted or not call.wanted:
            call.ordinal, may_be_known = self._next_submitted(key)
        elif journal is None or (call.shares and cache is not None):
            # With a cache an equal question has one answer, whenever it is asked.
            self._has_asked = True
            may_be_known = journal is not None
        else:
            self._has_asked = True
            free = self._take(key) if self._free else None
            call.ordinal = self._asked.count(key) if free is None else free
            # What this session asks for the first time, nothing can have been written down of.
            is_new = not call.ordinal and free is None and self._submitted is None
            may_be_known = not (is_new and journal.began_empty)
        return may_be_known and journal is not None

    def recorded(self, row: RowKey) -> Recorded | None:
        """Return the record of a row that is not asked again."""
        found = None if self.journal is None else self.journal.find(*row)
        return None if found is None or self._is_asked_again(found) else found

    async def recorded_many(self, rows: Sequence[RowKey]) -> dict[RowKey, Recorded]:
        """Return the records of the rows that are not asked again."""
        found = {} if self.journal is None else await self.journal.find_many(rows)
        return {row: each for row, each in found.items() if not self._is_asked_again(each)}

    def _is_asked_again(self, found: Recorded) -> bool:
        if isinstance(found, Response) or not self._retry_failed or self.journal is None:
            return False
        # What has failed in this session is not asked once more in it.
        return found.at < self.journal.opened_at

    def number(self, call: Call) -> None:
        """Set a call's key and ordinal, unless they are set."""
        if not call.key:
            key = call.key = self.fingerprint(call)
            with self._lock:
                call.ordinal = self._unwritten[key] = self._unwritten.get(key, -1) + 1

    def give_back(self, call: Call, places: Iterable[int]) -> None:
        """Give ordinals without a record back to equal calls."""
        if call.wanted and call.route.cache is None:
            self.free(call.key, places)

    @property
    def has_submitted(self) -> bool:
        """True if any call wanted no result."""
        return self._submitted is not None

    def begin_again(self) -> None:
        """Restart the ordinals for calls that are submitted once more."""
        if self._submitted is not None:
            self._submitted.close()
            self._has_begun_again = True

    def note_twin(self, call: Call) -> None:
        """Note that a submitted call gets its first equal's answer."""
        self._twins[call.key] = max(call.ordinal, self._twins.get(call.key, 0))

    async def write_twins(self) -> None:
        """Record answers of submitted calls for the equal ones, too."""
        twins, self._twins = self._twins, {}
        rows, journal = [(key, 0) for key in twins], self.journal
        for start in range(0, len(rows), _AT_ONCE):
            assert journal is not None
            found = await journal.find_many(rows[start : start + _AT_ONCE])
            for (key, _), each in found.items():
                outcome = each if isinstance(each, Response) else each.error()
                journal.put(key, 1, outcome, uses=twins[key], paid=False)
            await journal.drain()

    def close(self) -> None:
        """Forget how often each call was asked."""
        self._asked.close()
        if self._submitted is not None:
            self._submitted.close()

    def fingerprint(self, call: Call) -> bytes:
        """Return what stands for a call in the journal."""
        provider = call.route.provider
        return fingerprint(
            provider=provider.name,
            endpoint=server_of(provider),
            model=provider.model,
            body=canonical(call.request),
        )

    def _next_submitted(self, key: bytes) -> tuple[int, bool]:
        """Return the next ordinal of a call that wants no result, and if it may be known."""
        if self.journal is None:
            raise UsageError(
                "calls can be submitted in a run with a name only: its journal keeps their answers"
            )
        if self._submitted is None:
            self._submitted = Asked()
        nth = self._submitted.count(key)
        may_be_known = self._has_asked or self._has_begun_again or not self.journal.began_empty
        return nth, bool(nth) or may_be_known

    def free(self, key: bytes, places: Iterable[int]) -> None:
        """Let the next calls with a key take these ordinals."""
        if self.journal is not None:
            with self._lock:
                if len(self._free) < _MOST:
                    self._free.setdefault(key, []).extend(places)

    def _take(self, key: bytes) -> int | None:
        """Return, once, the lowest ordinal that equal calls gave back; else None."""
        with self._lock:
            free = self._free.get(key)
            if not free:
                return None
            first = min(free)
            free.remove(first)
            if not free:
                del self._free[key]
            return first


class Asked:
    """Exact counts, in 20 MB of memory, then in a file.

    A dictionary alone would take 1.5 GB for ten million questions. A small one comes first:
    it is twenty times as fast, and most runs need no more. Of what is beyond it there is a bit
    each, so that a new question is seen to be one, and goes into the file with many others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[bytes, int] = {}
        self._new: dict[bytes, int] = {}
        self._bits = bytearray()
        self._beyond: sqlite3.Connection | None = None

    def count(self, fingerprint: bytes) -> int:
        """Return how often this was asked before, and count it.

        Raises:
            JournalError: there is no room in the temporary folder.
        """
        first = self._first
        with self._lock:
            times = first.get(fingerprint)
            if times is not None:
                first[fingerprint] = times = times + 1
                return times
            # Once it is full nothing new is put in: a question is in one of the two.
            if len(first) < _IN_MEMORY:
                first[fingerprint] = 0
                return 0
            times = self._new.get(fingerprint)
            if times is None:
                return self._count_beyond(fingerprint)
            self._new[fingerprint] = times = times + 1
            return times

    def _count_beyond(self, fingerprint: bytes) -> int:
        self._bits = self._bits or bytearray(_BITS >> 3)
        place = int.from_bytes(fingerprint[:8], "little") % _BITS
        byte, bit = place >> 3, 1 << (place & 7)
        is_new = not self._bits[byte] & bit
        self._bits[byte] |= bit
        if is_new and len(self._new) < _NEW_AT_ONCE:
            self._new[fingerprint] = 0
            return 0
        import sqlite3

        try:
            if self._beyond is None:
                self._beyond = _database()
            if is_new:
                self._beyond.executemany(_PUT, sorted(self._new.items()))
                self._new.clear()
            return int(self._beyond.execute(_ASK, (fingerprint,)).fetchall()[0][0])
        except sqlite3.Error as error:
            raise JournalError(
                f"questions of this run cannot be counted in the temporary folder: {error}; make "
                "room there, or name another folder in TMPDIR, and run again; what was answered "
                "is kept"
            ) from error

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._first.clear()
            self._new.clear()
            self._bits = bytearray()
            if self._beyond is not None:
                self._beyond.close()
                self._beyond = None


def _database() -> sqlite3.Connection:
    import sqlite3

    # A database without a name is private, and removed when it is closed.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = {_PAGES}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE asked (fingerprint BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
    )
    # Never committed: a commit would write what can stay in memory.
    connection.execute("BEGIN")
    return connection


def server_of(provider: Provider) -> str:
    """Return a server's identity among its provider's, for hashing only.

    It is the endpoint, unless the provider has a `server`: the environment may decide who answers.
    """
    return getattr(provider, "server", None) or getattr(provider, "endpoint", None) or ""


def fingerprint(*, provider: str, endpoint: str, model: str, body: bytes) -> bytes:
    """Return a question's fingerprint: equal for equal ones, in every process.

    >>> fingerprint(provider="sim", endpoint="", model="demo", body=b"{}").hex()
    'b0cd8ad8f0de0d527f29fb6aeee1b7ad'

    `body` is the whole request: every message and every parameter.
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
        if request.wanted:
            return _dumped([*parts[:-1], [_written_once(each) for each in request.wanted]])
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


def _written_once(value: Any) -> Any:
    """Return a schema as JSON that was written before; any other value as it is.

    One `OutputSchema` stands in all calls of a type, and nobody changes its schema.
    """
    if type(value) is not OutputSchema:
        return value
    found = _SCHEMAS.get(id(value))
    if found is None or found[0] is not value:
        if len(_SCHEMAS) >= _MOST_SCHEMAS:
            _SCHEMAS.clear()
        found = _SCHEMAS[id(value)] = (value, _dumped(value))
    return orjson.Fragment(found[1])


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
