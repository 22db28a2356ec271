"""A program that asks by batch jobs, and kills itself at one point of their life.

It runs in a process of its own. What happens at the points is the product's own: they are
wrapped from outside, and a kill is a real SIGKILL.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import orjson

# Loaded by the server of forks, so that none of its children has to.
import llmflow_providers.anthropic
import llmflow_providers.anthropic.anthropic_batch
import llmflow_providers.openai
import llmflow_providers.openai.openai_batch  # noqa: F401
from llmflow import LLM, AsyncParallelBatchNode, Batch, Run
from llmflow.batch import collector, deadline, job, spool
from llmflow.batch.deadline import Lateness
from llmflow.calls.live import LiveMode
from llmflow.errors import ProviderError
from llmflow.journal import Journal
from llmflow.pricing import Price
from llmflow.transport import StreamChannel, streams

ITEMS = 40
POLL = 0.02
INSTRUCTIONS = "Answer with the words that you were asked with. " * 120


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to ask, and where to die.

    Args:
        url: the server's address, for the model's dialect.
        folder: where its run is kept.
        name: begins every prompt, and ends its key: no two programs may have the same.
        model: what is asked.
        point: where it kills itself; None: nowhere. See `_arm`.
        deadline: of its run, in seconds, with the leftovers asked in parallel. It is near
            when half of the items are answered, however long that takes on this machine.
        primes: whether its instructions are marked, and a primer goes first.
        bad: the number of an item whose row the provider refuses, and the job with it.
        poll: of its jobs, in seconds.
    """

    url: str
    folder: Path
    name: str
    model: str = "openai/killed"
    point: str | None = None
    deadline: float | None = None
    primes: bool = False
    bad: int | None = None
    poll: float = POLL

    @property
    def key(self) -> str:
        """The customer that it is at the provider."""
        return f"sk-{self.name}"

    @property
    def output(self) -> Path:
        """Where its answers are when it has come to its end."""
        return self.folder / "answers.json"

    @property
    def prompts(self) -> list[str]:
        """What it asks."""
        return [f"{self.name}: item {number}." for number in range(ITEMS)]


class Ask(AsyncParallelBatchNode):
    """Asks each item, and takes an error for an answer."""

    def __init__(self, llm: LLM) -> None:
        super().__init__()
        self._llm = llm

    async def prep_async(self, shared: Any) -> Any:
        return shared["prompts"]

    async def exec_async(self, prompt: Any) -> Any:
        try:
            return await self._llm(prompt, max_tokens=50)
        except ProviderError as error:
            return type(error).__name__

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["answers"] = exec_res


def play(program: Program) -> None:
    """Run the program to its end, or to its point."""
    os.environ.update(LLMFLOW_CONFIG=os.devnull, LLMFLOW_STATE_DIR="off", LLMFLOW_OTEL="off")
    _arm(program)
    asyncio.run(_main(program))


async def _main(program: Program) -> None:
    marked: dict[str, Any] = {}
    if program.primes:
        price = Price(input=3, output=15, cached_input=0.3, cache_write=3.75)
        marked = {"price": price, "system": INSTRUCTIONS, "options": {"cache_system": "1h"}}
    llm = LLM(
        program.model,
        base_url=program.url,
        api_key=program.key,
        batch=Batch(quiet=0.1, poll=program.poll, rounds=10, few=0, primer=program.primes),
        **marked,
    )
    shared: dict[str, Any] = {"prompts": program.prompts}
    fallback: Any = None if program.deadline is None else "parallel"
    async with Run(
        "killed",
        mode="batch",
        folder=program.folder,
        deadline=program.deadline,
        fallback=fallback,
    ):
        await Ask(llm).run_async(shared)
    program.output.write_bytes(orjson.dumps(shared["answers"]))


# --- points --------------------------------------------------------------------------------------


def die() -> NoReturn:
    """End as a process does that is killed: nothing is closed, flushed or said."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _arm(program: Program) -> None:
    """Have the program end at its point.

    Points are named ``before X``, ``after X`` or ``while X``, and ``before X 2`` for the second
    time. X is one of: the states of a job, which are written down; ``split`` and ``next round``,
    when several jobs are written down at once, or one of a later round; the requests ``upload``,
    ``create``, ``find``, ``look``, ``fetch``, ``cancel``, ``delete``, ``ask``; ``collect`` and
    ``save``, halfway through a file; ``copy``, of the rows of a refused job; and ``answered 10``,
    when so many answers are written down.
    """
    _damage(program)
    _wrap_deadline()
    if program.point is None:
        return
    counts: dict[str, itertools.count[int]] = {}

    def at(point: str) -> None:
        number = next(counts.setdefault(point, itertools.count(1)))
        if program.point in (point if number == 1 else "", f"{point} {number}"):
            die()

    _wrap_records(at)
    _wrap_requests(at)
    _wrap_files(program, at)
    _wrap_answers(program)


def _wrap_records(at: Callable[[str], None]) -> None:
    put = Journal.put_jobs

    def wrapped(self: Journal, records: Any) -> None:
        plain = list(records.values())
        step = plain[0]["state"] if len(plain) == 1 else "split"
        if step == "sealed" and plain[0]["round"] > 1:
            step = "next round"
        at(f"before {step}")
        put(self, records)
        at(f"after {step}")

    Journal.put_jobs = wrapped  # type: ignore[method-assign]


def _request(wire: Any) -> str:
    """Return what a request is for."""
    path = urlsplit(wire.url).path.partition("/v1/")[2].removeprefix("messages/")
    match wire.method, path.split("/"):
        case "POST", ["files"]:
            return "upload"
        case "POST", ["batches"]:
            return "create"
        case "POST", ["batches", _, "cancel"]:
            return "cancel"
        case "GET", ["batches"]:
            return "find"
        case "GET", ["batches", _]:
            return "look"
        case "GET", _:
            return "fetch"
        case "DELETE", _:
            return "delete"
    raise AssertionError(wire.url)


def _wrap_requests(at: Callable[[str], None]) -> None:
    def wrap(inner: Any, name: Callable[[Any], str]) -> Any:
        async def wrapped(self: Any, about: Any, *args: Any) -> Any:
            step = name(about)
            at(f"before {step}")
            reply = await inner(self, about, *args)
            at(f"after {step}")
            return reply

        return wrapped

    StreamChannel.send = wrap(StreamChannel.send, _request)  # type: ignore[method-assign]
    StreamChannel.fetch = wrap(StreamChannel.fetch, _request)  # type: ignore[method-assign]
    LiveMode.complete = wrap(LiveMode.complete, lambda _: "ask")  # type: ignore[method-assign]


def _wrap_files(program: Program, at: Callable[[str], None]) -> None:
    if program.point == "while collect":
        add, rows = spool.Spool.add, itertools.count(1)
        spool._BUFFER = 1  # type: ignore[misc]

        def added(self: spool.Spool, *args: Any) -> None:
            add(self, *args)
            if next(rows) == ITEMS // 2:
                die()

        spool.Spool.add = added  # type: ignore[method-assign]
    elif program.point == "while save":

        async def half(stream: Any, file: Any, *_: Any) -> None:
            piece = await stream.readany()
            file.write(piece[: len(piece) // 2])
            file.flush()
            die()

        streams._copy = half
    copy = job.copy_rows

    def copied(*args: Any) -> int:
        at("before copy")
        size = copy(*args)
        at("after copy")
        return size

    for each in (collector, job):
        each.copy_rows = copied  # type: ignore[attr-defined]


def _wrap_answers(program: Program) -> None:
    """Let so many answers come into the journal, and no other."""
    assert program.point is not None
    what, _, number = program.point.partition(" ")
    if what != "answered":
        return
    put, asked, written = Journal.put, itertools.count(1), itertools.count(1)

    def counted(_: Any) -> None:
        if next(written) == int(number):
            die()

    def wrapped(self: Journal, *args: Any, **options: Any) -> asyncio.Future[None]:
        if next(asked) > int(number):
            return asyncio.get_running_loop().create_future()
        writing = put(self, *args, **options)
        writing.add_done_callback(counted)
        return writing

    Journal.put = wrapped  # type: ignore[method-assign]


def _wrap_deadline() -> None:
    """Have a deadline near when jobs have answered half of the items: there they get stuck."""

    def lead(self: Lateness) -> float:
        told = {each.tag: each.succeeded or 0 for each in self._queue.store.all()}
        told |= {each.record.tag: each.record.succeeded or 0 for each in self._queue.jobs}
        answered = sum(told.values())
        return math.inf if answered >= ITEMS // 2 else 0.0

    Lateness.lead = lead  # type: ignore[method-assign]
    deadline._LOOKS = 10_000  # type: ignore[misc]


def _damage(program: Program) -> None:
    """Have one item's row be one that the provider refuses."""
    if program.bad is None:
        return
    from llmflow_providers.openai.openai_batch import OpenAIBatch

    line: Callable[..., bytes] = OpenAIBatch.line
    bad = program.prompts[program.bad].encode()

    def damaged(self: OpenAIBatch, custom_id: str, wire: Any) -> bytes:
        row = line(self, custom_id, wire)
        return row.replace(b'"POST"', b'"PUT"') if bad in row else row

    OpenAIBatch.line = damaged  # type: ignore[method-assign]
