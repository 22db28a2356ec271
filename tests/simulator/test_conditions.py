"""Real conditions: latencies with a tail, the moment of headers, slow ways, crowds."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from llmflow.cli.simulate import simulate as command
from llmflow.simulator import (
    Admissions,
    Engine,
    Faults,
    Latency,
    Simulator,
    SimulatorSettings,
    serve_in_process,
    serve_in_thread,
)
from llmflow.simulator.engine import Reply

BODY = b'{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}'
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
LEFT = {
    "openai": "x-ratelimit-remaining-requests",
    "anthropic": "anthropic-ratelimit-requests-remaining",
}
LIMIT = {
    "openai": "x-ratelimit-limit-requests",
    "anthropic": "anthropic-ratelimit-requests-limit",
}


def headers(dialect: str) -> dict[str, str]:
    if dialect == "openai":
        return {"authorization": "Bearer k"}
    return {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def ask(engine: Engine, *, now: float, dialect: str = "openai") -> Reply:
    return engine.receive("POST", PATHS[dialect], headers=headers(dialect), body=BODY, now=now)


def told(reply: Reply) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in reply.headers.split("\r\n") if line)


def drawn(settings: SimulatorSettings, count: int) -> list[float]:
    engine = Engine(settings, now=0.0)
    return [ask(engine, now=0.0).delay for _ in range(count)]


def test_the_latency_of_a_simulator_has_a_tail_unless_it_is_set() -> None:
    seconds = sorted(drawn(SimulatorSettings(), 4000))
    assert statistics.mean(seconds) == pytest.approx(0.5, rel=0.05)
    assert statistics.median(seconds) == pytest.approx(0.44, rel=0.05)
    assert seconds[-40] > 2.4 * 0.5
    assert seconds[40] < 0.35 * 0.5


def test_the_same_requests_in_order_take_as_long_in_every_run_of_a_seed() -> None:
    first, again, other = (drawn(SimulatorSettings(seed=seed), 50) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_rejection_between_leaves_the_latencies_of_the_admitted_as_they_were() -> None:
    free = drawn(SimulatorSettings(), 3)
    engine = Engine(SimulatorSettings(rpm=60, burst_seconds=1), now=0.0)
    replies = [ask(engine, now=now) for now in (0.0, 0.5, 1.0, 1.1, 2.0)]
    assert [reply.delay for reply in replies if reply.status == 200] == free


@pytest.mark.parametrize(
    "settings",
    [
        SimulatorSettings(latency=0.7),
        SimulatorSettings(latency=Latency(seconds=0.7)),
        SimulatorSettings.from_json('{"latency": 0.7}'),
        SimulatorSettings.from_json('{"latency": {"seconds": 0.7}}'),
    ],
)
def test_a_number_of_seconds_is_a_constant(settings: SimulatorSettings) -> None:
    assert set(drawn(settings, 20)) == {0.7}


def test_a_law_is_set_by_its_mean() -> None:
    seconds = drawn(SimulatorSettings(latency=Latency.around(8.0, sigma=0.3)), 4000)
    assert statistics.mean(seconds) == pytest.approx(8.0, rel=0.02)
    assert Latency.around(8.0, sigma=0.3).mean == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("line", "latency"),
    [
        ("", Latency.usual()),
        ("--latency 0.5", Latency(seconds=0.5)),
        ("--latency 2 --latency-sigma 0.4", Latency(seconds=2, sigma=0.4)),
        ("--latency-sigma 0.4", Latency.around(0.5, sigma=0.4)),
        ("--latency-sigma 0", Latency(seconds=0.5)),
    ],
)
def test_the_options_of_latency(
    line: str, latency: Latency, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SimulatorSettings] = []

    def run(settings: SimulatorSettings, **_: object) -> Any:
        given.append(settings)
        return Engine(settings, now=0.0).stats()

    monkeypatch.setattr("llmflow.simulator.run_simulator", run)
    assert CliRunner().invoke(command, line.split()).exit_code == 0
    assert given[0].latency == latency


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(("moment", "left"), [("admission", "59"), ("reply", "56")])
def test_headers_speak_of_the_moment_that_is_set(dialect: str, moment: Any, left: str) -> None:
    settings = SimulatorSettings(rpm=60, latency=2, headers_at=moment)
    engine = Engine(settings, now=0.0, wall=1_795_000_000)
    first = ask(engine, now=0.0, dialect=dialect)
    for _ in range(5):
        ask(engine, now=0.0, dialect=dialect)
    engine.leave(first, now=2.0)
    assert told(first)[LEFT[dialect]] == left
    assert told(first)[LIMIT[dialect]] == "60"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_over_http_headers_of_the_reply_know_what_came_after(dialect: str) -> None:
    settings = SimulatorSettings(rpm=6, latency=0.3, headers_at="reply")
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:

        async def remaining() -> str:
            url = sim.root_url + PATHS[dialect]
            async with session.post(url, data=BODY, headers=headers(dialect)) as reply:
                return reply.headers[LEFT[dialect]]

        # All were admitted before the first answer left: each tells of all of them.
        assert await asyncio.gather(*(remaining() for _ in range(5))) == ["1"] * 5


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_headers_on_rejections_alone(dialect: str) -> None:
    settings = SimulatorSettings(rpm=60, burst_seconds=1, latency=0, headers_on="rejections")
    engine = Engine(settings, now=0.0, wall=1_795_000_000)
    answered, refused = (ask(engine, now=0.0, dialect=dialect) for _ in range(2))
    engine.leave(answered, now=0.0)
    assert (answered.status, refused.status) == (200, 429)
    assert LEFT[dialect] not in told(answered)
    assert told(refused)[LEFT[dialect]] == "0"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_others_take_their_share_and_the_limit_stays(dialect: str) -> None:
    settings = SimulatorSettings(
        rpm=600, burst_seconds=1, latency=0, others=((0, 0.6), (10, 0)), rejections_cost=False
    )
    engine = Engine(settings, now=0.0, wall=1_795_000_000)
    admitted = [0, 0]
    for step in range(2000):
        reply = ask(engine, now=step / 100, dialect=dialect)
        admitted[step >= 1000] += reply.status == 200
        assert told(reply)[LIMIT[dialect]] == "600"
    assert admitted[0] == pytest.approx(10 + 0.4 * 100, abs=2)
    assert admitted[1] == pytest.approx(100, abs=2)


async def test_requests_overtake_each_other_on_their_way() -> None:
    settings = SimulatorSettings(latency=0.0, jitter=0.2, record=100)
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        ends: list[int] = []

        async def one(number: int) -> None:
            async with session.post(f"{sim.url}/chat/completions", data=BODY) as reply:
                assert reply.status == 200
            ends.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
        moments = [row.at for row in sim.admissions().rows]
    assert sorted(ends) == list(range(20))
    assert ends != list(range(20))
    assert moments[-1] - moments[0] > 0.1


async def test_a_client_that_leaves_on_the_way_was_never_there() -> None:
    async with Simulator(SimulatorSettings(latency=0.0, jitter=60.0)) as sim:
        limit = aiohttp.ClientTimeout(total=0.1)
        async with aiohttp.ClientSession(timeout=limit) as session:
            with pytest.raises(TimeoutError):
                await session.post(f"{sim.url}/chat/completions", data=BODY)
        await asyncio.sleep(0.05)
        assert sim.stats().received == 0


async def test_a_fresh_connection_is_slow_and_a_kept_one_is_not() -> None:
    settings = SimulatorSettings(latency=0.0, slow_openings=0.8)
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        took = []
        for _ in range(2):
            begin = time.monotonic()
            async with session.post(f"{sim.url}/chat/completions", data=BODY) as reply:
                await reply.read()
            took.append(time.monotonic() - begin)
        assert took[0] >= 0.4
        assert took[1] < took[0] / 2
        # One that ends while nobody listens to it keeps nothing open.
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.close()
        await writer.wait_closed()


def test_each_admission_is_recorded_with_its_latency() -> None:
    faults = Faults(overloaded=0.5)
    settings = SimulatorSettings(rpm=600, burst_seconds=1, faults=faults, record=8, seed=5)
    engine = Engine(settings, now=100.0)
    replies = [ask(engine, now=100.0 + step / 100) for step in range(12)]
    admitted = [reply for reply in replies if reply.decision is not None]
    assert len(admitted) < len(replies)
    record = engine.admissions()
    assert (record.started, record.dropped) == (100.0, len(admitted) - 8)
    assert [row.latency for row in record.rows] == [reply.delay for reply in admitted[:8]]
    assert [row.fault for row in record.rows] == [reply.fault for reply in admitted[:8]]
    assert {row.fault for row in record.rows} == {None, "overloaded"}
    assert record.rows[0].at == 100.0
    assert {row.tokens for row in record.rows} == {10.0}
    engine.reset(now=200.0)
    assert engine.admissions().rows == ()


def test_what_an_anthropic_answer_produces_is_recorded() -> None:
    settings = SimulatorSettings(itpm="10k", otpm="10k", record=5)
    engine = Engine(settings, now=0.0, wall=1_795_000_000)
    reply = ask(engine, now=0.0, dialect="anthropic")
    row = engine.admissions().rows[0]
    assert (row.input, row.produced) == (reply.call.charge.input, reply.tokens[1])
    assert row.produced > 0


def test_the_record_is_served_and_off_unless_asked_for() -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0, record=10)) as sim:
        asyncio.run(crowd(sim.url, 3))
        record = sim.admissions()
        assert len(record.rows) == 3
        assert Admissions.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    with serve_in_process(SimulatorSettings(latency=0.0, record=10)) as process:
        asyncio.run(crowd(process.url, 3))
        assert len(process.admissions().rows) == 3
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        asyncio.run(crowd(sim.url, 3))
        assert (sim.admissions().rows, sim.admissions().dropped) == ((), 3)


async def crowd(url: str, count: int) -> int:
    """Ask so many at once, each on a connection of its own; return the most in flight."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one() -> None:
            async with session.post(f"{url}/chat/completions", data=BODY) as reply:
                assert reply.status == 200
                await reply.read()

        await asyncio.gather(*(one() for _ in range(count)))
        async with session.get(url.removesuffix("/v1") + "/stats") as reply:
            return int((await reply.json())["max_in_flight"])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"headers_at": "never"}, "headers_at must be one of 'admission', 'reply'"),
        ({"headers_on": "errors"}, "headers_on must be one of 'all', 'rejections'"),
        ({"jitter": -1}, "jitter must be a number of at least 0"),
        ({"slow_openings": "long"}, "slow_openings must be a number of at least 0"),
        ({"record": -1}, "record must be a whole number of at least 0"),
        ({"others": ((0, 1),)}, "others must be ascending pairs"),
        ({"others": ((5, 0.5), (1, 0))}, "others must be ascending pairs"),
    ],
)
def test_wrong_conditions_are_named(wrong: dict[str, Any], words: str) -> None:
    from llmflow.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=words):
        SimulatorSettings(**wrong)
