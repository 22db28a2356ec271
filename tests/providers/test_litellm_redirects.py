"""Redirects are not followed by whatever HTTP client litellm sends with."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llmflow import LLM, Retry, errors
from llmflow.limits.registry import forget_limiters
from llmflow.types import Request
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.litellm.client import guard, loader, no_redirects
from tests.providers.test_litellm import ANSWER, KEY

pytestmark = pytest.mark.http

httpx: Any = pytest.importorskip("httpx")

STATUSES = (301, 302, 303, 307, 308)
# One or more of every way in which litellm sends: the SDKs of OpenAI and Azure, its handler,
# its handler in the provider's own code, aiohttp alone.
FAMILIES = [
    "anthropic/claude-haiku-4-5",
    "anthropic_text/claude-2",
    "azure/deployment",
    "azure_ai/x",
    "bedrock/anthropic.claude-3-haiku-20240307-v1:0",
    "cerebras/x",
    "cloudflare/x",
    "cohere_chat/command-r",
    "databricks/x",
    "deepseek/deepseek-chat",
    "fireworks_ai/x",
    "gemini/gemini-2.5-flash",
    "groq/x",
    "hosted_vllm/x",
    "huggingface/x/y",
    "mistral/mistral-small",
    "nlp_cloud/x",
    "ollama/x",
    "ollama_chat/x",
    "oobabooga/x",
    "openai/gpt-4o",
    "openrouter/a/b",
    "petals/petals-team/StableBeluga2",
    "snowflake/x",
    "text-completion-openai/gpt-3.5-turbo-instruct",
    "together_ai/x",
    "xai/grok-4",
]


class Hosts:
    """A server that sends its callers to another host, and what came to either."""

    def __init__(self) -> None:
        self.status = 307
        self.body: Any = None
        self.url = self.elsewhere = ""
        self.here = 0
        self.there: list[str] = []

    async def redirect(self, request: web.Request) -> web.Response:
        await request.read()
        self.here += 1
        headers = {"Location": f"{self.elsewhere}{request.path_qs}"}
        if self.body is not None:
            response = web.json_response(self.body, status=self.status)
            response.headers.update(headers)
            return response
        return web.Response(status=self.status, headers=headers)

    async def receive(self, request: web.Request) -> web.Response:
        self.there.append(f"{request.rel_url} {dict(request.headers)} {await request.text()}")
        return web.json_response(ANSWER)


@asynccontextmanager
async def serving(answer: Any = None) -> AsyncIterator[Hosts]:
    hosts = Hosts()
    runners = []
    ports = []
    for handler in (answer or hosts.redirect, hosts.receive):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        ports.append(runner.addresses[0][1])
    hosts.url, hosts.elsewhere = f"http://127.0.0.1:{ports[0]}/v1", f"http://localhost:{ports[1]}"
    try:
        yield hosts
    finally:
        for runner in runners:
            await runner.cleanup()


@pytest.fixture(name="litellm")
def _litellm() -> Any:
    """Return litellm, imported as the provider does: by itself it asks the network for prices."""
    loader.load()
    return importlib.import_module("litellm")


@pytest.fixture(autouse=True)
def _forget_limiters() -> None:
    forget_limiters()


# Some of litellm's own code makes a client for each call, and closes none.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("model", "http"),
    [(model, "aiohttp") for model in FAMILIES]
    + [(model, "httpx") for model in FAMILIES if model.startswith(("anthropic", "gemini", "op"))],
)
async def test_no_key_goes_where_a_redirect_points(
    model: str, http: str, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", http == "httpx")
    async with serving() as hosts:
        provider = LiteLLMProvider(model, base_url=hosts.url, api_key=KEY)
        for status in STATUSES:
            hosts.status = status
            request = Request(model="", messages=({"role": "user", "content": "Hello"},))
            with pytest.raises(errors.InvalidRequestError, match="redirects elsewhere") as caught:
                await provider.complete(request, timeout=20)
            assert caught.value.status == status
            assert KEY not in str(caught.value)
            assert caught.value.__context__ is None
        assert hosts.here == len(STATUSES)
        assert hosts.there == []


async def test_no_key_goes_there_by_a_session_of_litellm_s_own(litellm: Any) -> None:
    # litellm keeps this one for all loops, and closes it with none.
    handler = litellm.main.base_llm_aiohttp_handler
    async with serving() as hosts:
        try:
            provider = LiteLLMProvider("aiohttp_openai/x", base_url=hosts.url, api_key=KEY)
            request = Request(model="", messages=({"role": "user", "content": "Hello"},))
            with pytest.raises(errors.InvalidRequestError, match="redirects elsewhere"):
                await provider.complete(request, timeout=20)
        finally:
            if handler.client_session is not None:
                await handler.client_session.close()
                handler.client_session = None
        assert (hosts.here, hosts.there) == (1, [])


async def test_a_redirect_that_carries_an_answer_is_no_answer() -> None:
    async with serving() as hosts:
        hosts.body = ANSWER
        llm = LLM("litellm/openai/gpt-4o", base_url=hosts.url, api_key=KEY, retry=Retry(attempts=1))
        with pytest.raises(errors.InvalidRequestError, match="check the base URL"):
            await llm("Hello")
        assert hosts.there == []


async def test_a_client_of_the_user_s_own_follows_none_either(litellm: Any) -> None:
    async with serving() as hosts, httpx.AsyncClient(follow_redirects=True) as client:
        handler = litellm.AsyncHTTPHandler()
        await handler.client.aclose()
        handler.client = client
        llm = LLM("litellm/anthropic/claude-haiku-4-5", base_url=hosts.url, api_key=KEY)
        with pytest.raises(errors.InvalidRequestError, match="redirects elsewhere"):
            await llm("Hello", client=handler)
        assert (hosts.here, hosts.there) == (1, [])


def _httpx(url: str) -> int:
    with httpx.Client(follow_redirects=True) as client:
        return client.post(url, content=b"x").status_code


def _requests(url: str) -> int:
    requests = pytest.importorskip("requests")
    status: int = requests.post(url, data=b"x", timeout=10).status_code
    return status


def _httpx2(url: str) -> int:
    httpx2 = pytest.importorskip("httpx2")
    with httpx2.Client(follow_redirects=True) as client:
        status: int = client.post(url, content=b"x").status_code
        return status


@pytest.mark.parametrize("post", [_httpx, _httpx2, _requests])
async def test_clients_in_threads_follow_none_in_a_call_and_go_their_way_outside(post: Any) -> None:
    guard()
    async with serving() as hosts:
        assert await asyncio.to_thread(post, hosts.url) == 200
        assert len(hosts.there) == 1
        with no_redirects(), pytest.raises(errors.InvalidRequestError, match="redirects"):
            await asyncio.to_thread(post, hosts.url)
        assert len(hosts.there) == 1


async def test_other_sessions_of_the_program_follow_as_before() -> None:
    guard()
    async with serving() as hosts, aiohttp.ClientSession() as session:
        async with session.post(hosts.url, data=b"x") as reply:
            assert reply.status == 200
        with no_redirects(), pytest.raises(errors.InvalidRequestError):
            await session.post(hosts.url, data=b"x")
        assert len(hosts.there) == 1


@pytest.mark.parametrize("http", ["aiohttp", "httpx"])
async def test_long_and_many_headers_are_read(
    http: str, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "disable_aiohttp_transport", http == "httpx")

    async def answer(_: web.Request) -> web.Response:
        headers = {f"X-Header-{number}": "value" for number in range(300)}
        return web.json_response(ANSWER, headers=headers | {"X-Long": "v" * 32 * 1024})

    async with serving(answer) as hosts:
        llm = LLM("litellm/openai/gpt-4o", base_url=hosts.url, api_key=KEY)
        assert await llm("Hello") == "Hello."
