"""litellm behind llmflow's protocol: real HTTP on loopback, and nothing of its habits left over."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from aiohttp import web

from llmflow import LLM, Retry, errors, transport
from llmflow.limits.registry import forget_limiters
from llmflow.provider import ClientProvider, WireProvider
from llmflow.provider_registry import provider_for
from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.transport import Timeout
from llmflow.types import Charge, Request, Usage
from llmflow_providers import litellm as module
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.litellm import client as litellm_client
from llmflow_providers.litellm.replies import translate
from llmflow_providers.openai import OpenAIProvider

pytestmark = pytest.mark.http  # litellm's import takes seconds

httpx: Any = pytest.importorskip("httpx", reason="litellm's client")
if find_spec("litellm") is None:  # not imported: its import is tested here, too
    pytest.skip("needs the extra litellm", allow_module_level=True)

KEY = "sk-verysecret-1234567890"
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello."},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 20,
        "total_tokens": 1020,
        "prompt_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    forget_limiters()


class Server:
    """Answers every POST with one scripted reply, and keeps what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {"content-type": "application/json"}
        self.body: bytes | dict[str, Any] = ANSWER
        self.before: asyncio.Event | None = None
        self.breaks = False
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.asked = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        self.asked.set()
        if self.before is not None:
            await self.before.wait()
        if self.breaks:
            assert request.transport is not None
            request.transport.close()
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return web.Response(status=self.status, headers=self.headers, body=body)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        if server.before is not None:
            server.before.set()
        await runner.cleanup()


def provider(server: Server | None, model: str = "openai/gpt-4o-mini") -> LiteLLMProvider:
    url = server.url if server else "http://127.0.0.1:9/v1"
    return LiteLLMProvider(model, base_url=url, api_key=KEY)


def ask(text: str = "Hello", **rest: Any) -> Request:
    return Request(model="", messages=({"role": "user", "content": text},), **rest)


# Which names come here


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("litellm/openai/gpt-4o", "openai/gpt-4o"),
        ("cohere_chat/command-r", "cohere_chat/command-r"),
        ("gpt-4o", "gpt-4o"),
    ],
)
def test_names_without_a_native_provider_come_here(name: str, model: str) -> None:
    found = provider_for(name)
    assert isinstance(found, LiteLLMProvider)
    assert isinstance(found, ClientProvider)
    assert not isinstance(found, WireProvider)
    assert found.model == model


def test_a_server_that_the_environment_names_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = LiteLLMProvider("ollama_chat/llama3")
    assert here.server == ""
    monkeypatch.setenv("OLLAMA_API_BASE", "http://127.0.0.1:1")
    first = here.server
    monkeypatch.setenv("OLLAMA_API_BASE", "http://127.0.0.1:2")
    assert len({"", first, here.server}) == 3
    assert LiteLLMProvider("cohere_chat/command-r").server == ""
    named = LiteLLMProvider("ollama_chat/llama3", base_url="http://127.0.0.1:3")
    assert named.server == named.endpoint == "http://127.0.0.1:3"


def test_the_domain_tells_keys_and_servers_apart_and_holds_no_key() -> None:
    domains = {
        LiteLLMProvider("a/b").domain,
        LiteLLMProvider("a/c").domain,
        LiteLLMProvider("a/b", api_key=KEY).domain,
        LiteLLMProvider("a/b", base_url="http://127.0.0.1:1/v1").domain,
    }
    assert len(domains) == 4
    assert KEY not in repr(domains)
    assert LiteLLMProvider("a/b", api_key=KEY).domain == LiteLLMProvider("a/b", api_key=KEY).domain
    assert KEY not in repr(LiteLLMProvider("a/b", api_key=KEY))


@pytest.mark.parametrize("url", ["ftp://host", "http://user:pass@host/v1", "host/v1"])
def test_a_base_url_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="base_url"):
        LiteLLMProvider("a/b", base_url=url)


# Preparing


@pytest.mark.parametrize("name", ["opnai/gpt-4o", "foo/bar", "litellm/nonsense"])
def test_a_provider_that_litellm_does_not_know_is_an_error_before_anything_is_sent(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        errors.UnknownModelError, match="no native provider has the model"
    ) as caught:
        LLM(name).prepare()
    if name == "opnai/gpt-4o":
        assert "did you mean 'openai/gpt-4o'" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(errors.MissingKeyError, match="set GROQ_API_KEY, or pass api_key"):
        LiteLLMProvider("groq/llama-3.1-8b-instant").prepare()


@pytest.mark.parametrize("odd", ["\n", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(odd: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="cannot be sent in a header") as caught:
        LiteLLMProvider("groq/llama-3.1-8b-instant", api_key=f"{KEY}{odd}").prepare()
    assert "secret" not in repr(caught.value)


def test_a_key_is_found_where_litellm_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    LiteLLMProvider("groq/llama-3.1-8b-instant", api_key=KEY).prepare()
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    LiteLLMProvider("groq/llama-3.1-8b-instant").prepare()


@pytest.mark.parametrize(
    "model",
    [
        "openai/anything",  # with a base URL: servers of one's own may need no key
        "bedrock/anthropic.claude-3-haiku-20240307-v1:0",
        "vertex_ai/gemini-2.0-flash",
        "azure/deployment",
        "ollama/llama3",
    ],
)
def test_no_key_is_demanded_where_there_are_other_ways_to_log_in(model: str) -> None:
    url = "http://127.0.0.1:9/v1" if model.startswith("openai") else None
    LiteLLMProvider(model, base_url=url).prepare()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("opnai/gpt-4o", "did you mean 'openai/gpt-4o'"),
        ("zzz/b", "the model 'zzz/b' needs litellm"),
    ],
)
def test_without_litellm_the_extra_is_named(
    model: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(errors.MissingExtraError) as caught:
        LiteLLMProvider(model).prepare()
    assert words in str(caught.value)
    assert "pip install 'llmflow[litellm]'" in str(caught.value)


async def test_on_a_loop_the_first_call_checks_what_prepare_could_not() -> None:
    unknown = LiteLLMProvider("foo/bar")
    unknown.prepare()
    with pytest.raises(errors.UnknownModelError):
        await unknown.complete(ask(), timeout=60)


# Importing, in a process of its own

_LOAD = """
import asyncio, logging, os, socket, sys, threading
real = socket.socket.connect
def connect(self, address):
    assert address[0] == "127.0.0.1", f"a look-up of {address}"
    return real(self, address)
socket.socket.connect = connect
socket.getaddrinfo = lambda host, *rest, **kw: (_ for _ in ()).throw(AssertionError(host))
from llmflow import LLM
before = dict(os.environ)
llm = LLM("litellm/openai/gpt-4o-mini", base_url=sys.argv[1], api_key="sk-test-123456")
assert "litellm" not in sys.modules, "imported too early"
importers = []
class Watch:
    def find_spec(name, path=None, target=None):
        if name == "litellm.main":  # a part, as the whole is also only looked for
            importers.append(threading.current_thread())
sys.meta_path.insert(0, Watch)
async def main():
    texts = await asyncio.gather(*(llm("Hello") for _ in range(40)))
    assert len(set(texts)) == 1, texts
asyncio.run(main())
assert "litellm" in sys.modules
assert importers and threading.main_thread() not in importers, "the loop stood still"
for _ in range(3):
    asyncio.run(llm.complete("Hello"))
assert dict(os.environ) == before, set(os.environ) ^ set(before)
names = [thread.name for thread in threading.enumerate()]
assert not [name for name in names if "litellm" in name.lower()], names
clients = sys.modules["litellm"].in_memory_llm_clients_cache.cache_dict
assert not [key for key in clients if key.rpartition("-")[2].isdigit()], clients
"""


def run_python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LITELLM", "TIK"))
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_import_is_late_silent_offline_and_leaves_no_trace() -> None:
    """With warnings as errors: no output, no download, no environment, no thread, no client."""
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        done = run_python(_LOAD, sim.url, TIKTOKEN_CACHE_DIR="/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


_THREADS = """
import sys, threading
from llmflow_providers.litellm import LiteLLMProvider
failures = []
def prepare():
    try:
        LiteLLMProvider("openai/gpt-4o", api_key="sk-test-123456").prepare()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=prepare) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
"""


def test_many_threads_may_import_at_once() -> None:
    done = run_python(_THREADS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_cancelled_waiter_does_not_stop_the_import_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    started, loop = asyncio.Event(), asyncio.get_running_loop()

    class FakeClient:
        def __init__(self, litellm: object) -> None:
            self.litellm = litellm

    def slow_import() -> str:
        loop.call_soon_threadsafe(started.set)
        go.wait(10)
        return "litellm"

    monkeypatch.setattr(litellm_client, "_import", slow_import)
    monkeypatch.setattr(litellm_client, "LiteLLMClient", FakeClient)
    loader = litellm_client.Loader()
    first = asyncio.create_task(loader.load_in_thread())
    second = asyncio.create_task(loader.load_in_thread())
    await started.wait()
    first.cancel()
    go.set()
    client = await second
    assert first.cancelled()
    assert client is loader.load()


def test_a_failed_import_names_the_extra_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise ImportError("no module named boto3")

    monkeypatch.setattr(litellm_client, "_import", broken)
    loader = litellm_client.Loader()
    for _ in range(2):
        with pytest.raises(errors.MissingExtraError, match=r"boto3.*llmflow\[litellm\]"):
            loader.load()


# Answers


async def test_an_answer_holds_everything_that_is_known() -> None:
    async with serving() as server:
        server.headers = {"content-type": "application/json", "x-request-id": "req_7"}
        response = await provider(server).complete(ask(), timeout=60)
    assert response.text == "Hello."
    assert response.finish_reason == "stop"
    assert response.usage == Usage(
        input_tokens=1000,
        output_tokens=20,
        cached_tokens=400,
        reasoning_tokens=5,
        cache_write_tokens=100,
    )
    assert (response.model, response.provider) == ("gpt-4o-mini-2024-07-18", "litellm")
    assert response.request_id == "req_7"
    assert response.cost is not None
    assert 0 < response.cost < 0.01
    assert response.raw["choices"][0]["message"]["content"] == "Hello."
    assert pickle.loads(pickle.dumps(response)) == response


async def test_an_unknown_price_is_no_cost() -> None:
    async with serving() as server:
        server.body = {**ANSWER, "model": "mine"}
        response = await provider(server, "hosted_vllm/mine").complete(ask(), timeout=60)
    assert response.cost is None
    assert response.model == "mine"


async def test_system_limits_options_and_key_reach_the_server() -> None:
    request = ask(
        system="Be brief.", max_tokens=9, temperature=0.5, options={"seed": 7, "num_retries": 5}
    )
    async with serving() as server:
        await provider(server).complete(request, timeout=60)
    (body,) = server.bodies
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (9, 0.5, 7)
    assert body["model"] == "gpt-4o-mini"
    assert "num_retries" not in body
    assert server.keys == [f"Bearer {KEY}"]


async def test_a_stream_is_refused_before_it_is_sent() -> None:
    async with serving() as server:
        with pytest.raises(errors.ConfigurationError, match="stream"):
            await provider(server).complete(ask(options={"stream": True}), timeout=60)
    assert server.bodies == []


async def test_an_option_that_litellm_refuses_is_an_invalid_request() -> None:
    """`drop_params` is the user's decision, and not llmflow's."""
    async with serving() as server:
        model = provider(server, "cohere_chat/command-r")
        request = ask(options={"logit_bias": {"1": 2}})
        with pytest.raises(errors.InvalidRequestError, match="drop_params"):
            await model.complete(request, timeout=60)
    assert server.bodies == []


async def test_the_users_own_callbacks_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    litellm_client.loader.load()  # by itself it asks the network for prices
    import litellm

    heard = asyncio.Event()

    async def listen(*_: object) -> None:
        heard.set()

    async with serving() as server:
        model = provider(server)
        await model.complete(ask(), timeout=60)
        monkeypatch.setattr(litellm, "_async_success_callback", [listen])
        assert not heard.is_set()
        await model.complete(ask(), timeout=60)
        await asyncio.wait_for(heard.wait(), 60)


# Errors


def body(message: str, *, code: str | None = None, kind: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()


OUT_OF_CAPACITY = {
    "index": 0,
    "message": {"role": "assistant", "content": ""},
    "finish_reason": "insufficient_system_resource",
}
REPLIES: list[tuple[int, Mapping[str, str], bytes]] = [
    (400, {}, body("bad", kind="invalid_request_error")),
    (400, {}, body("This model's maximum context length is 8 tokens")),
    (400, {}, body("too long", code="context_length_exceeded")),
    (400, {}, body("no", code="content_filter")),
    (400, {}, body("no", code="content_policy_violation", kind="invalid_request_error")),
    (400, {}, body("Incorrect API key provided: sk-abc")),
    (401, {}, body("weird", kind="invalid_request_error")),
    (401, {}, body("wrong key", code="invalid_api_key")),
    (402, {}, body("Insufficient Balance")),
    (402, {"retry-after": "3"}, body("in flight")),
    (403, {}, body("not yours")),
    (404, {}, body("no such model", code="model_not_found")),
    (404, {}, b"<html>not here</html>"),
    (408, {}, b"{}"),
    (409, {}, body("again")),
    (413, {}, body("large", code="rate_limit_exceeded")),
    (422, {}, b'{"detail": "unprocessable"}'),
    (429, {}, body("slow down", code="rate_limit_exceeded")),
    (429, {"retry-after": "7"}, body("slow down")),
    (429, {"retry-after-ms": "1500", "x-request-id": "req_3"}, body("slow down")),
    (429, {}, body("Rate limit reached. Please try again in 1m3s.")),
    (429, {}, body("You exceeded your current quota", code="insufficient_quota")),
    (429, {}, body("Traffic", code="slow_down")),
    (429, {}, body("Request too large for gpt-4o on tokens per min (TPM)")),
    (429, {}, body("Limit reached on requests per day (RPD)")),
    (429, {}, b""),
    (498, {}, body("flex")),
    (500, {}, body("The server had an error processing your request.")),
    (500, {}, b""),
    (502, {}, b"<html>bad gateway</html>"),
    (503, {"retry-after": "2"}, body("busy")),
    (504, {}, b""),
    (520, {}, b"cloudflare"),
    (529, {}, body("overloaded")),
    (200, {"content-type": "text/html"}, b"<html>log in</html>"),
    (200, {}, b""),
    (200, {}, b'{"choices": []}'),
    (200, {}, body("no capacity")),
    (200, {}, body("no capacity", code="server_is_overloaded")),
    (200, {}, b'{"error": {"message": "no capacity", "code": 503}}'),
    (200, {}, json.dumps({**ANSWER, "choices": [OUT_OF_CAPACITY]}).encode()),
    (200, {}, b'{"id": "cut'),
    # What is odd, but honest.
    (421, {}, body("no")),
    (425, {}, body("no")),
    (499, {}, body("no")),
    (424, {}, body("no", code="upstream_timeout")),
    (424, {}, body("no", code="odd")),
    (403, {}, json.dumps({"error": {"message": "x", "metadata": {"reasons": ["y"]}}}).encode()),
    (400, {}, body("Content Exists Risk")),
    (400, {}, body("Invalid model name passed in model=gpt-9")),
    (400, {}, body("a/b is not a valid model ID")),
    (429, {"retry-after": "1m30s"}, body("slow")),
    (429, {"retry-after": "2 hours"}, body("slow")),
    (429, {}, body("wait 7 seconds")),
    (429, {}, body("Daily quota is used up. Try again in 2 hours")),
    (
        429,
        {},
        b'{"error": {"message": "slow", "metadata": {"headers": {"Retry-After": "34.07s"}}}}',
    ),
]


@pytest.mark.parametrize("vendor", ["openai", "hosted_vllm"])
async def test_a_reply_means_the_same_as_at_the_native_provider(
    vendor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Class, status, code, request id and delay; and one request is sent, never a second."""
    differences = []
    async with serving() as server:
        native = OpenAIProvider("m", base_url=server.url, api_key=KEY)
        ours = provider(server, f"{vendor}/m")
        for server.status, headers, server.body in REPLIES:
            server.headers = {"content-type": "application/json", **headers}
            found = []
            reply = await transport.send(native.encode(ask()), timeout=Timeout(total=60))
            with pytest.raises(errors.ProviderError) as caught:
                native.decode(reply)
            found.append(caught.value)
            server.bodies.clear()
            with pytest.raises(errors.ProviderError) as caught:
                await ours.complete(ask(), timeout=60)
            found.append(caught.value)
            facts = [
                (type(e).__name__, e.status, e.code, e.request_id, e.retry_after) for e in found
            ]
            if facts[0] != facts[1] or len(server.bodies) != 1:
                differences.append((server.body, len(server.bodies), *facts))
    assert not differences
    assert capfd.readouterr() == ("", "")


def beside(at_top: object, content: str | None = "", **rest: Any) -> dict[str, Any]:
    """Return an answer with an error at its top, or in the fields of its choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, **rest}
    return {**ANSWER, "choices": [{"finish_reason": "stop", **choice}], "error": at_top}


@pytest.mark.parametrize("vendor", ["openai/m", "openrouter/a/b", "hosted_vllm/m"])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (beside({"code": 429, "message": "slow"}), errors.RateLimitError),
        (beside({"code": "429", "message": "slow"}), errors.RateLimitError),
        (beside({"message": "Rate limit exceeded"}), errors.RateLimitError),
        (beside({"code": 502, "message": "up"}), errors.ServerError),
        (beside({"message": "odd"}), errors.BadReplyError),
        (beside(None, None, error={"code": 429, "message": "slow"}), errors.RateLimitError),
        (beside(None, "", error={"code": "429", "message": "slow"}), errors.RateLimitError),
        (beside(None, "", error="Too many requests"), errors.RateLimitError),
        (beside(None, "", error={"message": "odd"}), errors.BadReplyError),
        (beside(None, "Half", finish_reason="network_error"), errors.ServerError),
        (beside(None, "Half", finish_reason="ERROR"), errors.ServerError),
        (beside(None, "Half", finish_reason="abort"), errors.ServerError),
    ],
)
async def test_an_error_beside_an_answer_is_no_empty_answer(
    vendor: str, reply: dict[str, Any], kind: type[errors.ProviderError]
) -> None:
    async with serving() as server:
        server.body = reply
        with pytest.raises(errors.ProviderError) as caught:
            await provider(server, vendor).complete(ask(), timeout=60)
    assert type(caught.value) is kind


@pytest.mark.parametrize("code", [429, "429", None])
async def test_an_error_in_the_body_of_a_200_is_that_error_in_anthropics_dialect(code: Any) -> None:
    error = {
        "type": "rate_limit_error",
        "code": code,
        "message": "it's slow",
        "metadata": {"headers": {"Retry-After": "34.07s"}},
    }
    async with serving() as server:
        server.body = {"type": "message", "content": [], "stop_reason": None, "error": error}
        with pytest.raises(errors.RateLimitError) as caught:
            await provider(server, "anthropic/m").complete(ask(), timeout=5)
    assert caught.value.retry_after == 34.07
    assert "it's slow" in str(caught.value)


@pytest.mark.parametrize("ending", ["content_filter", "SAFETY", "sensitive", "refusal"])
async def test_a_filtered_answer_is_a_failure_with_its_partial_text(ending: str) -> None:
    async with serving() as server:
        server.body = beside(None, "Half", finish_reason=ending)
        with pytest.raises(errors.ContentFilterError) as caught:
            await provider(server).complete(ask(), timeout=60)
    assert caught.value.partial_text == "Half"
    assert caught.value.usage.input_tokens == 1000


@pytest.mark.parametrize("status", [201, 202, 203])
async def test_any_2xx_with_a_completion_is_an_answer(status: int) -> None:
    async with serving() as server:
        server.status = status
        assert (await provider(server).complete(ask(), timeout=60)).text == "Hello."


async def test_an_answer_in_json_that_is_not_strict_is_used() -> None:
    async with serving() as server:
        half = json.dumps(ANSWER).encode().replace(b'"Hello."', b'"a\\ud800b"')
        server.body = b"\n\n" + half.replace(b'"created": 1', b'"created": 1, "score": NaN')
        assert (await provider(server).complete(ask(), timeout=60)).text == "a\ufffdb"


@pytest.mark.parametrize("tokens", [-5, 10**18])
async def test_a_usage_that_cannot_be_is_not_said(tokens: int) -> None:
    async with serving() as server:
        server.body = {**ANSWER, "usage": {"prompt_tokens": tokens, "completion_tokens": 4}}
        answer = await provider(server).complete(ask(), timeout=60)
    assert answer.usage == Usage()
    assert answer.cost is None or answer.cost >= 0


CLAUDE = "anthropic/claude-3-5-haiku-20241022"
GEMINI = "gemini/gemini-2.0-flash"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
NO_QUOTA = "You exceeded your current quota, please check your plan and billing details."


def said(message: str, **rest: object) -> dict[str, Any]:
    return {"error": {"message": message, **rest}}


OTHER_DIALECTS: list[tuple[str, int, dict[str, Any], type[errors.ProviderError]]] = [
    (CLAUDE, 400, said("prompt is too long: 9 tokens > 8 maximum"), errors.ContextLengthError),
    (CLAUDE, 400, said("Your credit balance is too low."), errors.BillingError),
    (CLAUDE, 429, said("above the acceleration limit"), errors.RampLimitError),
    (CLAUDE, 529, said("Overloaded", type="overloaded_error"), errors.OverloadedError),
    (GEMINI, 429, said(NO_QUOTA, status="RESOURCE_EXHAUSTED"), errors.RateLimitError),
    (GEMINI, 429, said(NO_QUOTA, details=[{"quotaId": PER_DAY}]), errors.QuotaExhaustedError),
    (GEMINI, 400, said("no", details=[{"reason": "API_KEY_INVALID"}]), errors.AuthenticationError),
    (GEMINI, 503, said("The model is overloaded."), errors.OverloadedError),
    ("cohere_chat/command-r", 429, {"message": "trial limit"}, errors.RateLimitError),
    ("deepseek/deepseek-chat", 402, said("Insufficient Balance"), errors.BillingError),
    ("mistral/m", 401, {"message": "Unauthorized"}, errors.AuthenticationError),
]


# litellm hides this warning of its own types, and pytest shows what was hidden.
@pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier")
@pytest.mark.parametrize("vendor", sorted({model for model, *_ in OTHER_DIALECTS}))
async def test_other_dialects_are_understood(vendor: str) -> None:
    async with serving() as server:
        for model, status, content, expected in OTHER_DIALECTS:
            if model == vendor:
                server.status, server.body = status, content
                delay = 4 if status == 429 else None
                server.headers = {"retry-after": "4"} if delay else {}
                server.bodies.clear()
                with pytest.raises(errors.ProviderError) as caught:
                    await provider(server, model).complete(ask(), timeout=60)
                assert type(caught.value) is expected, content
                assert (caught.value.status, caught.value.retry_after) == (status, delay)
                assert len(server.bodies) == 1


async def test_an_error_of_before_is_not_taken_for_the_present_one() -> None:
    """Python links exceptions: a call in an `except` block hangs on to what was caught."""
    async with serving() as server:
        model = provider(server)
        server.status, server.body = 429, body("wait")
        with pytest.raises(errors.RateLimitError):
            await model.complete(ask(), timeout=60)
        before = httpx.Response(429, content=b"{}", request=httpx.Request("POST", server.url))
        try:
            before.raise_for_status()
        except httpx.HTTPStatusError:
            server.breaks = True
            with pytest.raises(errors.ConnectionFailedError):
                await model.complete(ask(), timeout=60)


async def test_no_connection_is_told_from_a_broken_one() -> None:
    with pytest.raises(errors.ConnectionFailedError, match="cannot connect") as caught:
        await LiteLLMProvider("openai/m", base_url="http://127.0.0.1:9/v1", api_key=KEY).complete(
            ask(), timeout=5
        )
    assert not caught.value.may_be_billed
    async with serving() as server:
        server.breaks = True
        with pytest.raises(errors.ConnectionFailedError, match="broke") as caught:
            await provider(server).complete(ask(), timeout=60)
        assert caught.value.may_be_billed


@pytest.mark.parametrize("vendor", ["openai", "hosted_vllm"])
async def test_an_answer_that_does_not_come_is_a_time_out(vendor: str) -> None:
    async with serving() as server:
        asked = provider(server, f"{vendor}/m")
        await asked.complete(ask(), timeout=30)  # what a first call sets up is not timed
        server.bodies.clear()
        server.before = asyncio.Event()
        with pytest.raises(errors.RequestTimeoutError):
            await asked.complete(ask(), timeout=1.0)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("vendor", ["openai", "hosted_vllm"])
async def test_a_call_without_a_limit_on_its_time_is_answered(vendor: str) -> None:
    async with serving() as server:
        assert (await provider(server, f"{vendor}/m").complete(ask(), timeout=math.inf)).text


async def test_cancellation_passes_through() -> None:
    async with serving() as server:
        server.before = asyncio.Event()
        task = asyncio.create_task(provider(server).complete(ask(), timeout=30))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_error_holds_the_key() -> None:
    async with serving() as server:
        server.status, server.body = 401, body(f"Incorrect key {KEY}, Bearer {KEY}")
        with pytest.raises(errors.AuthenticationError) as caught:
            await provider(server).complete(ask(), timeout=60)
    error = caught.value
    assert KEY not in str(error) + repr(error) + repr(vars(error))
    assert error.__cause__ is None
    assert error.__context__ is None
    assert type(pickle.loads(pickle.dumps(error))) is errors.AuthenticationError


# What litellm can raise without a reply: one row for each of its classes.

EXPECTED: dict[str, type[errors.LLMFlowError]] = {
    "APIConnectionError": errors.ConnectionFailedError,
    "APIError": errors.ServerError,
    "APIResponseValidationError": errors.BadReplyError,
    "AuthenticationError": errors.AuthenticationError,
    "BadGatewayError": errors.ServerError,
    "BadRequestError": errors.InvalidRequestError,
    "BlockedPiiEntityError": errors.ContentFilterError,
    "BudgetExceededError": errors.BillingError,
    "ContentPolicyViolationError": errors.ContentFilterError,
    "ContextWindowExceededError": errors.ContextLengthError,
    "GuardrailRaisedException": errors.ContentFilterError,
    "ImageFetchError": errors.InvalidRequestError,
    "InternalServerError": errors.ServerError,
    "InvalidRequestError": errors.InvalidRequestError,
    "JSONSchemaValidationError": errors.BadReplyError,
    "LiteLLMUnknownProvider": errors.UnknownModelError,
    "MidStreamFallbackError": errors.OverloadedError,
    "MockException": errors.ServerError,
    "ModelNotMappedError": errors.InvalidRequestError,
    "ModifyResponseException": errors.ContentFilterError,
    "NotFoundError": errors.ModelNotFoundError,
    "OpenAIError": errors.InvalidRequestError,
    "PaymentRequiredError": errors.BillingError,
    "PermissionDeniedError": errors.AuthenticationError,
    "RateLimitError": errors.RateLimitError,
    "RejectedRequestError": errors.ContentFilterError,
    "SensitiveDataRouteException": errors.ContentFilterError,
    "ServiceUnavailableError": errors.OverloadedError,
    "Timeout": errors.RequestTimeoutError,
    "UnprocessableEntityError": errors.InvalidRequestError,
    "UnsupportedParamsError": errors.InvalidRequestError,
    "VectorStoreSearchError": errors.InvalidRequestError,
}


def litellm_classes() -> dict[str, type[Exception]]:
    litellm_client.loader.load()
    import litellm.exceptions

    return {
        name: each
        for name, each in vars(litellm.exceptions).items()
        if inspect.isclass(each)
        and issubclass(each, Exception)
        and each.__module__ == "litellm.exceptions"
    }


def made(kind: type[Exception], message: str = "it failed", **given: Any) -> Exception:
    """Make an exception, whatever its constructor asks for."""
    samples: dict[str, Any] = {
        "message": message,
        "status_code": 500,
        "current_cost": 2.0,
        "max_budget": 1.0,
        "request_data": {},
        "response": httpx.Response(
            getattr(kind, "status_code", 400), request=httpx.Request("POST", "http://127.0.0.1")
        ),
        "failures": ({"vector_store_id": "x", "error": "x"},),
        **given,
    }
    if kind.__init__ is Exception.__init__:
        return kind(message)
    arguments = {
        name: samples.get(name, "x")
        for name, parameter in inspect.signature(kind).parameters.items()
        if name in given
        or (
            parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and (parameter.default is parameter.empty or name == "message")
        )
    }
    return kind(**arguments)


def expected(kind: type[Exception]) -> type[errors.LLMFlowError] | None:
    """Return what is to become of a class: its own row, or that of the nearest class above it."""
    rows = (EXPECTED.get(each.__name__) for each in kind.__mro__ if each is not Exception)
    return next((row for row in rows if row is not None), None)


def test_every_exception_class_of_litellm_has_a_meaning() -> None:
    classes = litellm_classes()  # of whatever version is installed
    assert len(set(classes) & set(EXPECTED)) >= len(EXPECTED) - 2
    found = {
        name: type(translate(made(kind), outer=None, secret=None, model="a/b"))
        for name, kind in classes.items()
    }
    assert found == {name: expected(kind) for name, kind in classes.items()}


@pytest.mark.parametrize(
    ("name", "message", "given", "expected"),
    [
        ("RateLimitError", "Error: insufficient_quota", {}, errors.BillingError),
        ("RateLimitError", "You exceeded your current quota, check your billing", {},
         errors.BillingError),
        ("RateLimitError", "You exceeded your current quota, check your billing",
         {"llm_provider": "gemini"}, errors.RateLimitError),
        ("APIError", "pay", {"status_code": 402}, errors.BillingError),
        ("APIError", "busy", {"status_code": 529}, errors.OverloadedError),
        ("Timeout", "gateway", {"exception_status_code": 504}, errors.RequestTimeoutError),
        ("InternalServerError", "Empty or invalid response from LLM endpoint.", {},
         errors.BadReplyError),
    ],
)  # fmt: skip
def test_without_a_reply_the_status_and_the_words_decide(
    name: str, message: str, given: dict[str, Any], expected: type[errors.ProviderError]
) -> None:
    error = made(litellm_classes()[name], message, **given)
    assert type(translate(error, outer=None, secret=None, model="a/b")) is expected


def test_the_delay_is_read_from_litellms_own_headers() -> None:
    error = made(litellm_classes()["RateLimitError"])
    error.litellm_response_headers = {"Retry-After": "12"}  # type: ignore[attr-defined]
    found = translate(error, outer=None, secret=None, model="a/b")
    assert isinstance(found, errors.RateLimitError)
    assert found.retry_after == 12


def test_what_litellm_appends_to_messages_is_cut_off() -> None:
    error = made(litellm_classes()["BadRequestError"], f"no {KEY}\nTraceback (most recent ...")
    found = translate(error, outer=None, secret=KEY, model="a/b")
    assert "Traceback" not in str(found)
    assert KEY not in str(found)


def test_what_the_setup_lacks_is_no_error_of_the_provider() -> None:
    error = made(litellm_classes()["APIConnectionError"])
    error.__cause__ = ModuleNotFoundError("No module named 'google'")
    found = translate(error, outer=None, secret=None, model="vertex_ai/x")
    assert isinstance(found, errors.MissingExtraError)
    assert "google" in str(found)


# Charges


def test_a_request_is_charged_with_its_prompt_and_its_upper_bound() -> None:
    model = LiteLLMProvider("a/b")
    charge = model.reserve(ask("word " * 100, system="Be brief.", max_tokens=50))
    assert charge.output_tokens == 50
    assert charge.tokens == charge.input_tokens + 50
    assert 50 < charge.input_tokens < 250


def test_a_charge_is_settled_with_what_was_used_and_the_estimate_learns() -> None:
    model = LiteLLMProvider("a/b")
    request = ask("word " * 1000, max_tokens=50)
    first = model.reserve(request)
    settled = model.settle(first, Usage(input_tokens=3000, output_tokens=5))
    assert settled == Charge(1, 3005, 3000, 5)
    assert model.reserve(request).input_tokens > first.input_tokens
    assert model.settle(first, Usage()) == first


def test_texts_in_parts_are_charged_and_pictures_are_not() -> None:
    model = LiteLLMProvider("a/b")
    parts = [{"type": "text", "text": "word " * 100}, {"type": "image_url", "image_url": "data:"}]
    whole = Request(model="", messages=({"role": "user", "content": parts},))
    assert model.reserve(whole).input_tokens == model.reserve(ask("word " * 100)).input_tokens


# Whole: through LLM


def test_many_loops_one_after_another_leave_nothing_behind(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        llm = LLM("litellm/openai/gpt-4o-mini", base_url=sim.url, api_key=KEY)

        async def burst() -> None:
            await asyncio.gather(*(llm("Hello") for _ in range(10)))

        for _ in range(4):
            asyncio.run(burst())
        assert llm.run("Hello")
        assert sim.stats().received == 41
    gc.collect()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_retries_are_llmflows_own() -> None:
    async with serving() as server:
        server.status, server.body = 500, body("no")
        retry = Retry(attempts=3, wait_initial=0.001)
        llm = LLM("litellm/openai/m", base_url=server.url, api_key=KEY, retry=retry)
        with pytest.raises(errors.ServerError) as caught:
            await llm("Hello")
    assert len(server.bodies) == 3
    assert caught.value.attempts == 3
    assert (caught.value.provider, caught.value.model) == ("litellm", "openai/m")
