"""A server of both dialects over real HTTP, whose replies are whatever a test says."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import web

DIALECTS = ("openai", "anthropic")
_NO_LITELLM = pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="an extra")
EVERY_CLIENT = (
    *DIALECTS,
    pytest.param("litellm/hosted_vllm", marks=_NO_LITELLM),
    pytest.param("litellm/anthropic", marks=_NO_LITELLM),
)
"""Both dialects, as llmflow's own providers and litellm speak them."""


@dataclass(frozen=True)
class Odd:
    """One reply.

    Args:
        body: JSON, or the bytes as they are.
        status: of HTTP.
        headers: beside the usual ones.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request.

    Args:
        prompt: its last message.
        nth: how often this prompt was sent, from 1.
        total: how many requests have come, from 1.
        dialect: ``openai`` or ``anthropic``.
        body: all of it.
    """

    prompt: str
    nth: int
    total: int
    dialect: str
    body: dict[str, Any] = field(default_factory=dict, repr=False)


Rule = Callable[[Asked], Odd]


def whole(asked: Asked) -> Odd:
    """Return an ordinary answer, which repeats the prompt."""
    return Odd(answer(asked.dialect, f"re: {asked.prompt}"))


def answer(
    dialect: str, text: str | None, *, ending: str | None = "stop", **rest: Any
) -> dict[str, Any]:
    """Return the body of an answer, with further fields at its top."""
    if dialect == "anthropic":
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [] if text is None else [{"type": "text", "text": text}],
            "stop_reason": "end_turn" if ending == "stop" else ending,
            "stop_sequence": None,
            "usage": {"input_tokens": 8, "output_tokens": 2},
            **rest,
        }
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": ending,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
        **rest,
    }


class OddServer:
    """What was asked, and how it is answered.

    Args:
        rule: returns the reply to a request; see `whole`.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.asked: list[Asked] = []
        self.base = ""
        self._times: Counter[str] = Counter()

    @property
    def prompts(self) -> list[str]:
        """What was asked, in the order of arrival."""
        return [each.prompt for each in self.asked]

    def url(self, dialect: str) -> str:
        """Return the base URL for a dialect."""
        return self.base if dialect.endswith("anthropic") else f"{self.base}/v1"

    async def handle(self, request: web.Request) -> web.Response:
        """Answer as the rule says."""
        sent = await request.json()
        content = sent["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else content[0]["text"]
        self._times[prompt] += 1
        dialect = "anthropic" if request.path.endswith("/messages") else "openai"
        asked = Asked(prompt, self._times[prompt], len(self.asked) + 1, dialect, sent)
        self.asked.append(asked)
        odd = self.rule(asked)
        is_raw = isinstance(odd.body, bytes)
        headers = {"content-type": "text/plain" if is_raw else "application/json", **odd.headers}
        body = odd.body if is_raw else orjson.dumps(odd.body)
        return web.Response(status=odd.status, headers=headers, body=body)


@contextlib.contextmanager
def odd_server(rule: Rule) -> Iterator[OddServer]:
    """Serve on a free port of this machine, from a thread of its own."""
    server = OddServer(rule)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="odd-server")
    thread.start()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
