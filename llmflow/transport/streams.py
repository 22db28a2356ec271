"""Streams large bodies: uploads in pieces, downloads to disk.

A file of hundreds of megabytes may take an hour on a narrow line. So what is limited here,
besides the whole, is standing still: every piece that moves begins the time anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

from aiohttp.payload import Payload

from llmflow.errors import JournalError, RequestTimeoutError
from llmflow.transport.failures import too_late

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.abc import AbstractStreamWriter

    from llmflow.batch_api import Upload
    from llmflow.transport.intake import Intake
    from llmflow.transport.timeout import Timeout

_T = TypeVar("_T")

STALL: Final = 60.0
"""After how many seconds in which nothing moves an upload or a download is given up."""

_WRITE_AT_ONCE: Final = 2**20


class Pace:
    """The state of an exchange, and its next deadline.

    Must be made while its loop runs. The first byte is waited for from the end of the upload.
    """

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._phase = "connecting"
        self._over = False
        self.whole = asyncio.timeout(_finite(timeout.total))
        self.step = asyncio.timeout(None)

    def send(self) -> None:
        """Begin sending, or note progress; the reply may be there already."""
        if self._phase in ("connecting", "sending"):
            self._enter("sending", STALL)

    def wait(self) -> None:
        """Begin to wait for the reply, all being sent."""
        if self._phase in ("connecting", "sending"):
            self._enter("waiting", _finite(self._timeout.first_byte))

    def read(self) -> None:
        """Begin to read, or note that something was read."""
        self._enter("reading", STALL)

    def stop(self) -> None:
        """Watch no longer: what still sends is not to be heard."""
        self._over = True

    def late(self, url: str) -> RequestTimeoutError | None:
        """Return the error for an exceeded time, or None."""
        if self.whole.expired():
            return too_late(url, seconds=self._timeout.total, phase=self._phase)
        if self.step.expired():
            first = self._timeout.first_byte
            waited = self._phase == "waiting" and first is not None
            seconds, phase = (first, "first byte") if waited else (STALL, f"{self._phase} stalled")
            return too_late(url, seconds=seconds or STALL, phase=phase)
        return None

    def _enter(self, phase: str, seconds: float | None) -> None:
        if self._over or self.step.expired():
            return
        self._phase = phase
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.step.reschedule(when)


class Pieces(Payload):
    """A request's body that is made while it is sent.

    The pieces are made in a thread: most are read from a disk.

    Args:
        upload: where they come from.
        pace: is told of each.
    """

    _value: Upload

    def __init__(self, upload: Upload, pace: Pace) -> None:
        super().__init__(upload)
        self._size = upload.size
        self._pace = pace
        self.failure: JournalError | None = None
        """Why there is no next piece, if that was not the connection's fault."""

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """Refuse: nothing asks for a body of this size in one."""
        raise TypeError("a streamed body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all pieces."""
        left = self._value.size
        try:
            pieces = iter(self._value.pieces())
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                left -= len(piece)
                if left < 0:
                    break
                await writer.write(piece)
                self._pace.send()
        except ConnectionError:  # the writer's, which is the connection's matter
            raise
        except OSError as error:
            self.failure = JournalError(f"a file to be sent cannot be read: {error}")
            raise
        if left:
            self.failure = JournalError("a file to be sent has changed meanwhile")
            raise OSError("the body has another size than was announced")
        self._pace.wait()


async def save(stream: StreamReader, path: Path, pace: Pace, intake: Intake) -> None:
    """Write a reply's body into a file, whole or not at all.

    Raises:
        JournalError: the file cannot be written.
        ResultsTooLargeError: the body is above its bounds.
        aiohttp.ClientError, OSError: the body is cut off.
    """
    part = path.with_name(f"{path.name}.part")
    # The thread that opens it notes it: whoever is cancelled meanwhile has it, too.
    files: list[IO[bytes]] = []
    try:
        try:
            await _on_disk(part, lambda: files.append(_private(part)))
            await _copy(stream, files[0], part, pace, intake)
        finally:
            for file in files:
                await _on_disk(part, file.close)
        await _on_disk(path, lambda: _publish(part, path))
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


async def _copy(
    stream: StreamReader, file: IO[bytes], path: Path, pace: Pace, intake: Intake
) -> None:
    pieces: list[bytes] = []
    size = 0
    while received := await stream.readany():
        pace.read()
        for piece in intake.take(received):
            pieces.append(piece)
            size += len(piece)
            if size >= _WRITE_AT_ONCE:
                await _on_disk(path, lambda: file.writelines(pieces))
                pieces.clear()
                size = 0
    intake.end()

    def end() -> None:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())

    await _on_disk(path, end)


def _publish(part: Path, path: Path) -> None:
    """Give a complete file its name, and have that survive a power cut where it can be asked."""
    part.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _private(path: Path) -> IO[bytes]:
    """Open a new file that others cannot read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)  # Windows
    return os.fdopen(os.open(path, flags, 0o600), "wb")


async def _on_disk(path: Path, work: Callable[[], _T]) -> _T:
    """Do something with a file in a thread, to its end even if nobody waits for it any more."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise JournalError(f"{path} cannot be written: {reason}") from None


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds
