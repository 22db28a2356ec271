"""Every type, in both dialects and both modes, where every fifth first answer is wrong.

None is lost, each wrong answer is asked again exactly once, and the values are those of a
provider that is never wrong, live and in batch jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from llmflow import LLM, Batch, Quota, Run
from llmflow.simulator import (
    BatchSettings,
    Simulator,
    SimulatorSettings,
    SimulatorStats,
    serve_in_thread,
)
from tests.typed.fourteen import BARE, FOURTEEN

pytestmark = pytest.mark.http

Mode = Literal["parallel", "batch"]
ITEMS = 24
RATE = 0.2
TOKENS = 4000
QUICK = Batch(quiet=0.02, poll=0.01, few=0)
QUOTA = Quota(rpm=600_000)
JOBS = BatchSettings(seconds=0.02, validation_seconds=0.01, finalizing_seconds=0.01)
MODELS: Mapping[str, str] = {"openai": "sim/gpt-5.1", "anthropic": "anthropic/claude-opus-5"}


class Played(NamedTuple):
    """Values of a run, how many were asked again, and what the provider counted."""

    values: list[Any]
    reasked: int
    stats: SimulatorStats

    @property
    def wrong(self) -> int:
        """How many answers did not fit on purpose."""
        return sum(self.stats.invalid_answers.values()) + self.stats.batches.rows_invalid

    @property
    def answers(self) -> int:
        """How many answers the provider gave."""
        return self.stats.answered + self.stats.batches.rows_billed


async def play(
    kind: Any,
    name: str,
    folder: Path,
    *,
    dialect: str,
    mode: Mode = "parallel",
    rate: float = RATE,
    items: int = ITEMS,
    **options: Any,
) -> Played:
    """Ask for a type many times, and look at what it cost."""
    settings = SimulatorSettings(
        latency=0, batch=JOBS, invalid_answer_rate=rate, varied_values=True
    )
    async with Simulator(settings) as sim:
        llm = LLM(
            MODELS[dialect],
            base_url=sim.root_url if dialect == "anthropic" else sim.url,
            api_key="k",
            max_tokens=TOKENS,
            batch=QUICK,
            quota=QUOTA,
            output_type=kind,
            **options,
        )
        asked = [f"Whales sing, says number {number} of {name}." for number in range(items)]
        async with Run(f"{dialect}-{mode}-{rate}", folder=folder, mode=mode) as run:
            found = await asyncio.gather(*(llm.complete(text) for text in asked))
            done = run.statistics()
        stats = sim.stats()
    assert (done.answered, done.failed) == (items, 0)
    return Played([each.parsed for each in found], done.reasked, stats)


@pytest.mark.parametrize("dialect", MODELS)
@pytest.mark.parametrize("name", FOURTEEN)
async def test_all_is_answered_and_what_is_wrong_asked_again_once(
    name: str, dialect: str, tmp_path: Path
) -> None:
    kind = FOURTEEN[name]
    right, live, batch = await asyncio.gather(
        play(kind, name, tmp_path, dialect=dialect, rate=0.0),
        play(kind, name, tmp_path, dialect=dialect),
        play(kind, name, tmp_path, dialect=dialect, mode="batch"),
    )
    assert right.wrong == right.reasked == 0
    for played in (live, batch):
        assert 0 < played.wrong == played.reasked < ITEMS / 2
        assert played.answers == ITEMS + played.wrong
        assert all(type(value) is kind for value in played.values)
        assert played.values == right.values
    assert live.stats.batches.rows_billed == batch.stats.answered == 0


@pytest.mark.parametrize("dialect", MODELS)
@pytest.mark.parametrize("name", BARE)
async def test_types_that_are_no_objects_are_no_exception(
    name: str, dialect: str, tmp_path: Path
) -> None:
    right, played = await asyncio.gather(
        play(BARE[name], name, tmp_path, dialect=dialect, rate=0.0),
        play(BARE[name], name, tmp_path, dialect=dialect),
    )
    assert 0 < played.wrong == played.reasked < ITEMS / 2
    assert played.values == right.values


@pytest.mark.parametrize("mode", ["parallel", "batch"])
async def test_a_model_that_thinks_and_cannot_be_forced_calls_the_tool(
    mode: Mode, tmp_path: Path
) -> None:
    options = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    played = await play(
        *(FOURTEEN["recursive"], "thoughts", tmp_path),
        dialect="anthropic",
        mode=mode,
        options=options,
    )
    assert 0 < played.wrong == played.reasked


@pytest.mark.parametrize(
    ("dialect", "method"),
    [
        ("openai", "tool"),
        ("openai", "json_object"),
        ("openai", "prompt"),
        ("anthropic", "tool"),
        ("anthropic", "prompt"),
    ],
)
@pytest.mark.parametrize("name", ["constraints", "discriminated union", "recursive"])
async def test_every_method_is_as_good(
    name: str, dialect: str, method: str, tmp_path: Path
) -> None:
    kind = FOURTEEN[name]
    right, live, batch = await asyncio.gather(
        play(kind, name, tmp_path, dialect=dialect, rate=0.0),
        play(kind, name, tmp_path, dialect=dialect, output_method=method),
        play(kind, name, tmp_path, dialect=dialect, mode="batch", output_method=method),
    )
    for played in (live, batch):
        assert 0 < played.wrong == played.reasked
        assert played.values == right.values


def rows_of(frame: Any) -> str:
    """Return the rows of a frame of any library, as text."""
    for way in ("to_pylist", "to_dicts"):
        if hasattr(frame, way):
            return str(getattr(frame, way)())
    return str(frame.to_dict("records"))


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_have_the_same_columns_in_both_modes(library: str) -> None:
    module: Any = pytest.importorskip(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    settings = SimulatorSettings(
        latency=0, batch=JOBS, invalid_answer_rate=RATE, varied_values=True
    )
    with serve_in_thread(settings) as sim:
        llm = LLM(
            MODELS["openai"],
            base_url=sim.url,
            api_key="k",
            max_tokens=TOKENS,
            batch=QUICK,
            quota=QUOTA,
        )
        for name, kind in FOURTEEN.items():
            frame = make({"text": [f"Whales sing {number} of {name}." for number in range(8)]})
            live, batch = (
                llm.map_sync(frame, prompt="{text}", output_type=kind, mode=mode)
                for mode in ("parallel", "batch")
            )
            assert rows_of(live) == rows_of(batch)
            assert "Error" not in rows_of(live)
        stats = sim.stats()
    wrong = sum(stats.invalid_answers.values()) + stats.batches.rows_invalid
    assert wrong > len(FOURTEEN)
    assert stats.answered + stats.batches.rows_billed == 2 * 8 * len(FOURTEEN) + wrong
