"""How many connections there may be: what the system allows, and who may raise it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from llmflow import transport
from llmflow.transport.connection_limit import MOST_CONNECTIONS, how_to_have_more

resource = pytest.importorskip("resource")


def with_limits(soft: int, hard: int, program: str) -> list[str]:
    """Run a program under these limits on open files, and return the lines that it prints."""
    whole = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
import llmflow
from llmflow import LLM, Quota
from llmflow.errors import ConfigurationError
from llmflow.transport import connection_limit

def made(**quota):
    try:
        return LLM("openai/x", api_key="k", quota=Quota(**quota)).limiter.statistics()
    except ConfigurationError as error:
        return error
{textwrap.dedent(program)}
"""
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_library_takes_the_soft_limit_and_raises_it_when_asked() -> None:
    printed = with_limits(
        300,
        4096,
        """
        print(connection_limit(), made().max_in_flight)
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
        print(llmflow.raise_connection_limit(), connection_limit())
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
        """,
    )
    assert printed == ["236 236", "(300, 4096)", "4032 4032", "(4096, 4096)"]


def test_more_than_the_hard_limit_allows_is_an_error_with_the_remedy() -> None:
    (line,) = with_limits(
        300,
        1000,
        """
        try:
            llmflow.raise_connection_limit(5000)
        except ConfigurationError as error:
            print(error)
        """,
    )
    assert line == (
        "connections 5,000 is more than the 936 connections that this process may open: only "
        "1,000 files may be open at once; allow more with `ulimit -n 5064`, as root where the "
        "hard limit (1,000) is too low"
    )


def test_a_cap_above_the_limit_is_an_error_with_the_remedy() -> None:
    printed = with_limits(
        300,
        4096,
        """
        print(made(max_concurrent=236).max_in_flight)
        print(made(max_concurrent=1000))
        llmflow.raise_connection_limit()
        print(made(max_concurrent=1000, rpm=1).max_in_flight)
        """,
    )
    assert printed[0] == "236"
    assert printed[1].startswith("max_concurrent 1,000 is more than the 236 connections")
    assert printed[1].endswith("`ulimit -n 1064` or llmflow.raise_connection_limit()")
    assert printed[2] == "1000"


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (40, 40, 16),
        (64, 4096, 16),
        (1024, 4096, 960),
        (4096, 4096, 4032),
        (10**6, 10**6, 10_000),
        (-1, -1, 10_000),
    ],
)
def test_64_files_are_left_for_others_and_10_000_is_the_most(
    soft: int, hard: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    infinity = resource.RLIM_INFINITY
    limits = (infinity if soft < 0 else soft, infinity if hard < 0 else hard)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    assert transport.connection_limit() == expected


def test_where_the_system_is_not_what_limits_more_processes_are_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    assert transport.connection_limit() == MOST_CONNECTIONS
    assert "several processes" in how_to_have_more()


@pytest.mark.parametrize("taken", [4096, 10_240])
def test_a_system_that_takes_less_than_its_hard_limit_gets_less(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS says that there is no hard limit, and refuses more than the kernel's own."""
    infinity, now = resource.RLIM_INFINITY, [256]

    def take(_: int, limits: tuple[int, int]) -> None:
        assert limits[1] == infinity
        if limits[0] > taken:
            raise ValueError("current limit exceeds maximum limit")
        now[0] = limits[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (now[0], infinity))
    monkeypatch.setattr(resource, "setrlimit", take)
    expected = MOST_CONNECTIONS if taken == 10_240 else 256 - 64
    assert transport.raise_connection_limit() == expected


def test_where_no_file_may_be_opened_any_more_the_error_says_what_to_do() -> None:
    (line,) = with_limits(
        80,
        4096,
        """
        import asyncio
        from llmflow import transport
        from llmflow.types import WireRequest

        async def main():
            server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            taken = []
            try:
                while True:
                    taken.append(open("/dev/null"))
            except OSError:
                pass
            wire = WireRequest("POST", f"http://127.0.0.1:{port}/x", {}, b"{}")
            try:
                await transport.send(wire, timeout=transport.Timeout())
            except llmflow.errors.ConnectionFailedError as error:
                print(error)
            for each in taken:
                each.close()
            server.close()

        import llmflow.transport.http_session
        asyncio.run(main())
        """,
    )
    assert "Too many open files" in line
    assert "`ulimit -n 10064`" in line
