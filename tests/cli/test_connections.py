"""Thousands in flight: the command line takes what the system allows, and says what binds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import listing, write_rows
from tests.cli.sessions import Start
from tests.cli.test_broken_surroundings import in_shell

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell and its limits"),
]

QUICK = ("--rpm", "600000", "--max-tokens", "20")


def test_the_soft_limit_is_raised_to_the_hard_one(simulator: Start) -> None:
    write_rows("in.jsonl", 500)
    sim = simulator(latency=2.0)
    line = 'ulimit -Sn 128 && ulimit -Hn 600 && exec "$@"'
    result = in_shell(line, sim, *QUICK, "--quiet")
    assert result.code == 0, result.err
    assert sim.stats().answered == 500
    assert 128 < sim.stats().max_in_flight <= 500


def test_the_report_says_that_descriptors_are_what_binds(simulator: Start) -> None:
    write_rows("in.jsonl", 300)
    sim = simulator(latency=0.7)
    result = in_shell('ulimit -n 128 && exec "$@"', sim, *QUICK, "--json")
    assert result.code == 0, result.err
    assert sim.stats().max_in_flight == 64
    report = json.loads(result.out)
    assert report["bound_by"]["in_flight"] > 0.5
    assert report["verdict"].startswith("limited by the connections (64 in flight): only 128 files")
    assert "`ulimit -n 10064`" in report["verdict"]


def test_more_rows_at_once_than_connections_are_one_line(simulator: Start) -> None:
    write_rows("in.jsonl", 5)
    sim = simulator()
    result = in_shell('ulimit -n 1000 && exec "$@"', sim, "--concurrency", "5000")
    assert result.code == 2
    assert result.error.startswith("--concurrency 5,000 is more than the 936 connections")
    assert "`ulimit -n 5064`" in result.error
    assert sim.stats().received == 0
    assert listing() == ["in.jsonl"]


def test_a_cap_of_the_configuration_above_the_limit_is_one_line(simulator: Start) -> None:
    write_rows("in.jsonl", 5)
    Path("llmflow.toml").write_text("[providers.openai]\nquota = { max_concurrent = 5000 }\n")
    sim = simulator()
    line = 'ulimit -n 1000 && exec "$@"'
    result = in_shell(line, sim, "--config", "llmflow.toml")
    assert result.code == 2
    assert result.error.startswith("max_concurrent 5,000 is more than the 936 connections")
    assert sim.stats().received == 0


def test_as_many_rows_as_connections_are_told_how_there_could_be_more(simulator: Start) -> None:
    write_rows("in.jsonl", 200)
    sim = simulator(latency=1.2)
    more = ("--concurrency", "64", "--json", *QUICK)
    result = in_shell('ulimit -n 128 && exec "$@"', sim, *more)
    assert result.code == 0, result.err
    verdict = json.loads(result.out)["verdict"]
    assert verdict.startswith("limited by the connections (64 rows): only 128 files may be open")
