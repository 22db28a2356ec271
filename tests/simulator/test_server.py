"""The simulator over real sockets, with clients that are not llmflow's."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import pytest

from llmflow.errors import ConfigurationError
from llmflow.simulator import (
    Faults,
    Latency,
    Simulator,
    SimulatorSettings,
    run_simulator,
    serve_in_process,
    serve_in_thread,
)

pytestmark = pytest.mark.http

HELLO = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}


async def ask(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with session.post(f"{url}/chat/completions", json=HELLO) as reply:
        return reply.status, await reply.read()


async def test_the_quota_is_enforced_and_counted() -> None:
    settings = SimulatorSettings(rpm=10, tpm=10_000, latency=0)
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        replies = await asyncio.gather(*(ask(session, sim.url) for _ in range(15)))
        assert sorted(status for status, _ in replies) == [200] * 10 + [429] * 5
        stats = sim.stats()
        assert (stats.received, stats.admitted, stats.answered) == (15, 10, 10)
        assert stats.rejected == {"rpm": 5}
        assert stats.rejections == 5
        assert (stats.input_tokens, stats.output_tokens, stats.tokens_charged) == (70, 10, 160)
        assert stats.first_arrival is not None
        assert stats.last_arrival is not None
        assert stats.last_arrival >= stats.first_arrival >= stats.started
        assert sum(count for _, count in stats.admitted_per_second) == 10
        async with session.get(sim.url.removesuffix("/v1") + "/stats") as reply:
            assert type(stats).from_dict(await reply.json()) == stats
        async with session.post(sim.url + "/reset") as reply:
            assert (await reply.json())["received"] == 0
        assert (await ask(session, sim.url))[0] == 200


async def test_the_most_in_flight_is_seen() -> None:
    settings = SimulatorSettings(latency=0.05)
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        await asyncio.gather(*(ask(session, sim.url) for _ in range(20)))
        assert sim.stats().max_in_flight == 20
        assert sim.stats().in_flight == 0


async def test_latency_is_measured_from_the_arrival() -> None:
    loop = asyncio.get_running_loop()
    settings = SimulatorSettings(latency=Latency(seconds=0.05, per_output_token=0.01))
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        start = loop.time()
        await ask(session, sim.url)
        assert loop.time() - start >= 0.06


@pytest.mark.parametrize(
    ("kind", "status"), [("server_error", 500), ("overloaded", 503), ("slow", 200)]
)
async def test_faults_with_an_answer(kind: str, status: int) -> None:
    settings = SimulatorSettings(latency=0, faults=Faults(**{kind: 1.0}))
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        assert (await ask(session, sim.url))[0] == status
        assert sim.stats().faults == {kind: 1}
        assert sim.stats().in_flight == 0


async def test_garbage_is_no_json_in_three_ways() -> None:
    settings = SimulatorSettings(latency=0, faults=Faults(garbage=1.0))
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        replies = [await ask(session, sim.url) for _ in range(3)]
        assert [status for status, _ in replies] == [200] * 3
        assert len({body for _, body in replies}) == 3
        assert sim.stats().answered == 0


async def test_a_reset_is_a_tcp_reset() -> None:
    settings = SimulatorSettings(latency=0, faults=Faults(reset=1.0))
    async with Simulator(settings) as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
        head = f"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        assert sim.stats().faults == {"reset": 1}


async def test_a_hang_lasts_until_the_client_leaves() -> None:
    settings = SimulatorSettings(latency=0, faults=Faults(hang=1.0))
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(session, sim.url), 0.05)
        async with asyncio.timeout(10):
            while sim.stats().in_flight:  # noqa: ASYNC110 - the end comes through a socket
                await asyncio.sleep(0.001)
        assert sim.stats().client_disconnects == 1


async def test_a_taken_port_is_named() -> None:
    async with Simulator() as sim:
        with pytest.raises(ConfigurationError, match=rf"{sim.port}.*port 0 for a free one"):
            await Simulator(SimulatorSettings(port=sim.port)).start()


def test_a_thread_serves_and_ends() -> None:
    with serve_in_thread(SimulatorSettings(latency=0)) as sim:
        assert asyncio.run(_one(sim.url)) == 200
        assert sim.stats().answered == 1
    assert sim.stats().answered == 1
    sim.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot listen"):
            serve_in_thread(SimulatorSettings(port=taken.getsockname()[1]))


async def _one(url: str) -> int:
    async with aiohttp.ClientSession() as session:
        return (await ask(session, url))[0]


def test_a_process_serves_and_ends() -> None:
    with serve_in_process(SimulatorSettings(latency=0, api_key="sk-secret"), cpu=0) as sim:
        assert asyncio.run(_one(sim.url)) == 401
        assert sim.stats().refused == {"401": 1}
    assert sim.stats().refused == {"401": 1}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot listen"):
            serve_in_process(SimulatorSettings(port=taken.getsockname()[1]))


@pytest.mark.process
def test_the_foreground_stops_at_a_signal() -> None:
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        os.kill(os.getpid(), signal.SIGTERM)

    stats = run_simulator(SimulatorSettings(), on_ready=on_ready)
    assert urls[0].startswith("http://127.0.0.1:")
    assert stats.received == 0


_PARENT = """
from llmflow.simulator import serve_in_process
sim = serve_in_process()
print(sim.url, flush=True)
input()
"""


def test_a_process_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    url = parent.stdout.readline().decode().strip()
    port = int(url.removesuffix("/v1").rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port)).close()
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it is closing at this moment
        time.sleep(0.01)
    pytest.fail("the simulator outlives its parent")


def test_wrong_settings_are_reported_by_the_command() -> None:
    command = [sys.executable, "-m", "llmflow.simulator", "--settings-json", '{"rqm": 1}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the simulator has no setting 'rqm'")
