"""Chance that repeats, answers that repeat, settings that say what is wrong."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from llmflow.errors import ConfigurationError
from llmflow.simulator import Engine, Faults, Latency, SimulatorSettings
from llmflow.simulator.answer import answer_text, cut_to_tokens, summarize
from llmflow.simulator.faults import Dice
from llmflow.simulator.stats import Tally


def test_the_same_seed_brings_the_same_fate() -> None:
    latency, faults = Latency(seconds=1, sigma=0.5), Faults(server_error=0.1, hang=0.1)
    first, second, other = (Dice(latency, faults, seed=seed) for seed in (7, 7, 8))
    fates = [first.roll() for _ in range(200)]
    assert fates == [second.roll() for _ in range(200)]
    assert fates != [other.roll() for _ in range(200)]


def test_a_fault_more_leaves_the_latencies_as_they_were() -> None:
    calm = Dice(Latency(seconds=1, spread=0.5), Faults(), seed=1)
    rough = Dice(Latency(seconds=1, spread=0.5), Faults(garbage=0.5), seed=1)
    assert [calm.roll().latency for _ in range(50)] == [rough.roll().latency for _ in range(50)]


def test_faults_come_as_often_as_set() -> None:
    dice = Dice(Latency(), Faults(server_error=0.05, reset=0.02, straggler=0.01), seed=3)
    kinds = [dice.roll().fault for _ in range(20_000)]
    assert kinds.count("server_error") / 20_000 == pytest.approx(0.05, rel=0.15)
    assert kinds.count("reset") / 20_000 == pytest.approx(0.02, rel=0.15)
    assert kinds.count("straggler") / 20_000 == pytest.approx(0.01, rel=0.2)


def test_latencies_follow_their_distribution() -> None:
    dice = Dice(Latency(seconds=0.8, sigma=0.5), Faults(), seed=3)
    seconds = [dice.roll().latency for _ in range(20_000)]
    assert statistics.median(seconds) == pytest.approx(0.8, rel=0.03)
    uniform = Dice(Latency(seconds=1, spread=0.25, per_output_token=0.01), Faults(), seed=3)
    values = [uniform.roll(output_tokens=100).latency for _ in range(1000)]
    assert 1.75 <= min(values) < 1.8
    assert 2.2 < max(values) <= 2.25
    slow = Dice(Latency(seconds=1), Faults(slow=1.0, slow_factor=4), seed=1)
    assert slow.roll() == ("slow", 4.0)


def test_summaries_keep_the_sentences_with_the_frequent_words() -> None:
    text = (
        "Rivers carry water to the sea. My aunt has a bicycle. Rivers begin in hills as water. "
        "Nobody knows why."
    )
    assert summarize(text) == "Rivers carry water to the sea. Rivers begin in hills as water."
    assert summarize(text, max_tokens=9) == "Rivers begin in hills as water."
    assert summarize("") == ""


def test_chinese_sentences_are_told_apart() -> None:
    text = "河流把水带到大海。我的姑姑有一辆自行车。河流从山上带来水。"
    assert summarize(text) == "河流把水带到大海。河流从山上带来水。"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("hi", "hi"),
        ("Summarize: One thing.", "One thing."),
        ("请总结\uff1a一件事。", "一件事。"),
        ("See https://example.com/a", "See https://example.com/a"),
        ("Classify the sentiment as positive or negative: a positive day", "positive"),
        ("   ", "(empty)"),
    ],
)
def test_answers_to_short_prompts(prompt: str, answer: str) -> None:
    assert answer_text(prompt, style="summary", max_tokens=None) == answer


def test_cutting_keeps_characters_whole() -> None:
    assert cut_to_tokens("四个汉字", 2) == "四个"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rpm": 0}, "rpm must be a number above 0"),
        ({"otpm": "x"}, "otpm must be"),
        ({"ramp": 1}, "ramp must be a number above 1"),
        ({"ramp_window": 0}, "ramp_window must be a number above 0"),
        ({"ramp_floor": 0}, "ramp_floor must be a number above 0"),
        ({"credit_error": "none"}, "credit_error must be one of 'quota', 'spend_limit'"),
        ({"port": 70_000}, "port must be a whole number from 0 to 65535; got 70000"),
        ({"port": True}, "port must be a whole number"),
        ({"burst_seconds": 0}, "burst_seconds must be a number above 0; got 0"),
        ({"max_concurrent": 0}, "max_concurrent must be a whole number of at least 1"),
        ({"scope": "team"}, "scope must be one of 'key\\+model'"),
        ({"refund": 1}, "refund must be True or False"),
        ({"organization": "a\r\nb"}, "organization must be a printable text"),
        ({"models": "gpt-x"}, "models must be a list of names"),
        ({"schedule": ((5, 1), (1, 1))}, "schedule must be ascending pairs"),
        ({"schedule": "often"}, "schedule must be ascending pairs"),
        ({"latency": "slow"}, "latency must be a number"),
        ({"latency": {"second": 1}}, "latency has no setting 'second'"),
        ({"faults": {"reset": 0.6, "hang": 0.6}}, "must not exceed 1 together; got 1.2"),
        ({"seed": None}, "seed must be a whole number"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SimulatorSettings(**wrong)


def test_latency_is_constant_uniform_or_lognormal() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        Latency(spread=0.1, sigma=0.1)
    with pytest.raises(ConfigurationError, match="at most 1"):
        Latency(spread=2)


def test_settings_survive_json_and_hide_the_key() -> None:
    settings = SimulatorSettings(
        rpm="10k", latency=0.2, faults=Faults(hang=0.1), schedule=((0, 1), (9, 0.5)), api_key="sk-1"
    )
    assert SimulatorSettings.from_json(settings.to_json()) == settings
    assert "sk-1" not in repr(settings)
    with pytest.raises(ConfigurationError, match="no setting 'rqm'; there are: answer, api_key"):
        SimulatorSettings.from_json('{"rqm": 1}')
    with pytest.raises(ConfigurationError, match="not JSON"):
        SimulatorSettings.from_json("{")


def test_the_history_is_ten_minutes() -> None:
    tally = Tally(now=0.0)
    for second in range(3600):
        tally.admit(1, now=float(second))
    history = tally.snapshot().admitted_per_second
    assert (len(history), history[0], history[-1]) == (600, (3000, 1), (3599, 1))


def test_a_reset_forgets_what_is_under_way() -> None:
    engine = Engine(SimulatorSettings(), now=0.0)
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    reply = engine.receive("POST", "/chat/completions", headers={}, body=body, now=0.0)
    engine.reset(now=1.0)
    engine.end(reply, now=2.0)
    assert (engine.stats().in_flight, engine.stats().answered) == (0, 0)
