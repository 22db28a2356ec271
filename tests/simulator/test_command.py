"""The options of ``llmflow simulate`` become settings."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from llmflow.cli.simulate import simulate as command
from llmflow.simulator import BatchSettings, Engine, SimulatorSettings, SimulatorStats


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--itpm 2M --otpm 400k", {"itpm": "2M", "otpm": "400k"}),
        (
            "--ramp 1.5 --ramp-window 5 --ramp-floor 10k",
            {"ramp": 1.5, "ramp_window": 5, "ramp_floor": "10k"},
        ),
        (
            "--invalid-answer-rate 0.2 --varied-values",
            {"invalid_answer_rate": 0.2, "varied_values": True},
        ),
        (
            "--no-headers --no-retry-after",
            {"quota_headers": "off", "retry_after": False, "retry_text": False},
        ),
        (
            "--batch seconds=5 --batch queue_tokens=2M --batch stuck_jobs=[2] --state here",
            {"batch": BatchSettings(seconds=5, queue_tokens="2M", stuck_jobs=(2,), state="here")},
        ),
    ],
)
def test_an_option_is_a_setting(
    line: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SimulatorSettings] = []

    def run(settings: SimulatorSettings, **_: object) -> SimulatorStats:
        given.append(settings)
        return Engine(settings, now=0.0).stats()

    monkeypatch.setattr("llmflow.simulator.run_simulator", run)
    result = CliRunner().invoke(command, line.split())
    assert result.exit_code == 0, result.output
    assert given == [SimulatorSettings(port=8000, **expected)]  # type: ignore[arg-type]


def test_a_ramp_that_forbids_growth_is_refused() -> None:
    result = CliRunner().invoke(command, ["--ramp", "1"])
    assert result.exit_code == 2
    assert "--ramp" in result.output


def test_an_unknown_setting_of_the_batch_api_is_refused() -> None:
    result = CliRunner().invoke(command, ["--batch", "speed=3"])
    assert result.exit_code == 2
    assert "no such setting" in result.output
