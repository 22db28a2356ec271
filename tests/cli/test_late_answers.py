"""A run whose answers come after the time-out: what the server billed is within --budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmflow.config import forget_configs
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import Faults
from tests.cli.conftest import Run, write_rows
from tests.cli.sessions import Start

pytestmark = pytest.mark.http

PRICED = """\
[providers.{0}]
price = {{ input = 100, output = 100 }}
"""


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_over_all_sessions(
    run: Run, simulator: Start, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = simulator(latency=0.05, faults=Faults(straggler=0.2, straggler_factor=100.0))
    Path("llmflow.toml").write_text(PRICED.format(dialect))
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
    forget_configs()
    name = dialect.upper()
    monkeypatch.setenv(f"{name}_API_KEY", "sk-key-of-the-test")
    rows = write_rows("rows.jsonl", 1200)
    url = sim.root_url if dialect == "anthropic" else sim.url
    command = [
        "run",
        rows,
        "--prompt",
        "{text}: " + "word " * 60,
        "--model",
        f"{dialect}/any",
        "-o",
        "out.jsonl",
    ]
    command += ["--base-url", url, "--max-tokens", "20", "--timeout", "1", "--concurrency", "200"]
    billed = []
    for budget in ("1.50", "3.00"):  # the second session goes on, with all that was charged
        forget_limiters()  # as in another process
        result = run(*command, "--budget", budget)
        assert result.code == 3, result.err
        stats = sim.stats()
        each = (stats.input_tokens + stats.output_tokens) / stats.answered * 100.0 / 1e6
        billed.append(stats.admitted * each)
        assert billed[-1] <= float(budget)
    assert stats.client_disconnects > 20
    assert billed[1] > billed[0] > 0.7
