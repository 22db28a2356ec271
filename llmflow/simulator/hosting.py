"""Runs a simulator in a thread, a process or the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self, TypeVar

from llmflow import loops
from llmflow.errors import ConfigurationError
from llmflow.simulator.server import Simulator
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.stats import Admissions, SimulatorStats


def raise_limit_of_descriptors() -> None:
    """Raise the soft limit of open files to the hard one.

    A simulated provider serves thousands of connections; 1,024 files are what a shell
    usually allows. Does nothing where the system has no such limit, or forbids it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS names no hard limit, but refuses what is above its own.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_T = TypeVar("_T")
_GRACE_SECONDS = 5.0


def run_simulator(
    settings: SimulatorSettings | None = None,
    *,
    on_ready: Callable[[str], None] | None = None,
    until_stdin_ends: bool = False,
) -> SimulatorStats:
    """Serve in the foreground until SIGINT or SIGTERM; return the counts.

    Answers under way are still sent for five seconds; a second signal stops at once.

    Args:
        settings: what the provider is set to.
        on_ready: called with the base URL once the simulator listens.
        until_stdin_ends: stop as well when standard input ends, which it does
            with the process that holds its other end.

    Raises:
        ConfigurationError: the address cannot be listened on.

    """
    return loops.run(_serve(settings, on_ready, until_stdin_ends))


async def _serve(
    settings: SimulatorSettings | None,
    on_ready: Callable[[str], None] | None,
    until_stdin_ends: bool,
) -> SimulatorStats:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def interrupt(*_: object) -> None:
        (hurry if stop.is_set() else stop).set()

    restore = _on_signals(loop, interrupt)
    simulator = Simulator(settings)
    try:
        await simulator.start()
        if until_stdin_ends:
            watcher = threading.Thread(target=_watch_stdin, args=(loop, stop, hurry), daemon=True)
            watcher.start()
        if on_ready is not None:
            on_ready(simulator.url)
        await stop.wait()
        closing = asyncio.ensure_future(simulator.close(grace=_GRACE_SECONDS))
        hurrying = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({closing, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (closing, hurrying):
            task.cancel()
        await asyncio.gather(closing, hurrying, return_exceptions=True)
        return simulator.stats()
    finally:
        restore()


def _on_signals(
    loop: asyncio.AbstractEventLoop, interrupt: Callable[..., None]
) -> Callable[[], None]:
    """Call `interrupt` at each signal to end; return the undo function."""
    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # by nohup
        signals.append(hangup)
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # only the main thread is told of signals
    try:
        for number in signals:
            loop.add_signal_handler(number, interrupt)
    except NotImplementedError:  # Windows
        for number in signals:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(interrupt))
        return lambda: None

    def restore() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    return restore


def _watch_stdin(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, hurry: asyncio.Event
) -> None:
    # The bare descriptor: a thread inside sys.stdin's lock breaks the interpreter's exit.
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(hurry.set)
        loop.call_soon_threadsafe(stop.set)


class _Running(ABC):
    """A simulator that runs beside the program, until it is closed."""

    url: str
    """The base URL for OpenAI's clients, such as ``http://127.0.0.1:8000/v1``."""
    _last: SimulatorStats | None = None

    @property
    def root_url(self) -> str:
        """The base URL for Anthropic's clients, which add ``/v1`` themselves."""
        return self.url.removesuffix("/v1")

    def stats(self) -> SimulatorStats:
        """Return the counts so far; after `close`, the final ones."""
        return self._last if self._last is not None else self._count()

    @abstractmethod
    def close(self) -> None:
        """Stop, and wait for the end."""

    @abstractmethod
    def _count(self) -> SimulatorStats: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimulatorThread(_Running):
    """A simulator in a daemon thread; see `serve_in_thread`."""

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self._simulator = Simulator(settings)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="llmflow-simulator", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def admissions(self) -> Admissions:
        """Return the recorded admissions, if `record` is set."""
        return self._in_thread(self._simulator.admissions)

    def _count(self) -> SimulatorStats:
        return self._in_thread(self._simulator.stats)

    def _in_thread(self, look: Callable[[], _T]) -> _T:
        async def looked() -> _T:
            return look()

        return asyncio.run_coroutine_threadsafe(looked(), self._loop).result()

    def close(self) -> None:
        """Stop, and wait for the thread's end."""
        if self._last is None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            loops.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._simulator:
            self.url = self._simulator.url
            self._ready.set()
            await self._stop.wait()
            self._last = self._simulator.stats()


class SimulatorProcess(_Running):
    """A simulator in a process of its own. See `serve_in_process`."""

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        cpu: int | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        command = [sys.executable, "-m", "llmflow.simulator", "--settings-json", "-"]
        if cpu is not None:
            command += ["--cpu", str(cpu)]
        # The settings go through the pipe: a key must not show in the list of processes.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for this process: its last requests still need their answers.
            start_new_session=True,
        )
        try:
            self.url = self._start(settings or SimulatorSettings(), start_timeout)
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _count(self) -> SimulatorStats:
        return SimulatorStats.from_dict(self._get("/stats"))

    def admissions(self) -> Admissions:
        """Return the recorded admissions, if `record` is set."""
        return Admissions.from_dict(self._get("/admissions"))

    def _get(self, path: str) -> dict[str, Any]:
        host, port = self.root_url.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            said: dict[str, Any] = json.loads(connection.getresponse().read())
            return said

    def close(self) -> None:
        """Stop, and wait for the process's end."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._last = self.stats()
        self._end()

    def _start(self, settings: SimulatorSettings, timeout: float) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(settings.to_json().encode() + b"\n")
            stdin.flush()
        # A reply that never comes must not block for ever: the timer ends the process.
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        line = stdout.readline()
        timer.cancel()
        said = json.loads(line) if line else {}
        if "url" in said:
            return str(said["url"])
        late = f"the simulator's process ended, or did not listen within {timeout:g} s"
        raise ConfigurationError(str(said.get("error", late)))

    def _end(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_in_thread(settings: SimulatorSettings | None = None) -> SimulatorThread:
    """Start a simulator in a daemon thread, for tests and notebooks.

    >>> with serve_in_thread(SimulatorSettings(rpm=600)) as sim:
    ...     sim.stats().received
    0

    Args:
        settings: what the provider is set to.

    Raises:
        ConfigurationError: the address cannot be listened on.

    """
    return SimulatorThread(settings)


def serve_in_process(
    settings: SimulatorSettings | None = None,
    *,
    cpu: int | None = None,
    start_timeout: float = 30.0,
) -> SimulatorProcess:
    """Start a simulator in a process of its own.

    The process ends with this one, however this one ends.

    Args:
        settings: what the provider is set to.
        cpu: the processor that the process is bound to, where the system can do that.
        start_timeout: seconds until it must listen.

    Raises:
        ConfigurationError: it did not start; the message says why.

    """
    return SimulatorProcess(settings, cpu=cpu, start_timeout=start_timeout)
