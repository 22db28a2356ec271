"""`typed`: what `llmflow run --schema` takes beside the same run without a schema."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmflow.simulator import BatchSettings
from scenarios.checks import Check, checked
from scenarios.command import Command, Ended, read_rows, write_rows
from scenarios.measure import Options, server

ROWS = 10_000
ROUNDS = 3
PART = 10  # how much longer the input is whose peak of memory is compared
MOST = 1.15
MOST_GROWTH = 1.3
CHARACTERS = 60  # of a review: both strings of an answer repeat it
SCHEMA = (
    "sentiment: positive|negative|neutral, topics: list[str], score: float, "
    "language: str, urgent: bool"
)
TYPED = "Review: {text}"
# As people ask without a schema. The simulator repeats 200 characters of it, which makes
# answers about as long as those with the schema.
PLAIN = (
    "Name the sentiment (positive, negative or neutral), the topics, a score from 0 to 1, the "
    "language, and whether it is urgent, in a line each: {text}"
)
FIELDS = ("sentiment", "topics", "score", "language", "urgent")
MODES: Final = ("parallel", "batch")
QUICK = BatchSettings(seconds=1.0, validation_seconds=0.1, finalizing_seconds=0.1)


class Took(NamedTuple):
    """What a run took, the rows that it lost, and how long its answers are on average."""

    ended: Ended
    lost: int
    answer_characters: float


def typed(options: Options) -> dict[str, Any]:
    """Pairs of runs, without a schema and with one; then a pair of ten times as many rows."""
    rows = options.n or ROWS
    checks: list[Check] = []
    lost = 0
    lengths: list[float] = []
    with server(answer="echo", latency=0.0, batch=QUICK) as sim:
        for mode in MODES:
            pairs = [_pair(sim.url, rows, mode, turn) for turn in range(options.rounds or ROUNDS)]
            longer = _pair(sim.url, rows * PART, mode, 0)
            checks += _checks(mode, rows, pairs, longer)
            lost += sum(plain.lost + typed.lost for plain, typed in (*pairs, longer))
            lengths = [each.answer_characters for each in pairs[0]]
    checks += [
        Check("answers without a schema", lengths[0], "characters"),
        Check("answers with one", lengths[1], "characters"),
        Check("rows lost, doubled or without a field", lost, "", most=0),
    ]
    what = (
        f"{rows:,} JSONL rows through `llmflow run`, without and with `--schema` of five fields, "
        f"no limits, no latency; CPU of the whole process; {options.rounds or ROUNDS} pairs that "
        "take turns, medians of their ratios"
    )
    return checked(what, rows, checks)


def _pair(url: str, rows: int, mode: str, turn: int) -> tuple[Took, Took]:
    """Run both, every second time in the other order."""
    first = _run(url, rows, mode, with_schema=bool(turn % 2))
    second = _run(url, rows, mode, with_schema=not turn % 2)
    return (second, first) if turn % 2 else (first, second)


def _run(url: str, rows: int, mode: str, *, with_schema: bool) -> Took:
    """Run the command once, in a folder and a process of its own."""
    schema = ("--schema", SCHEMA) if with_schema else ()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if mode == "batch":  # a file of settings loads pydantic, as a schema does
            (folder / "llmflow.toml").write_text("[batch]\npoll = 0.2\n")
        source = write_rows(folder / "in.jsonl", rows, characters=CHARACTERS)
        command = Command(
            *(folder, source, url, "--mode", mode, "--max-tokens", "200", *schema),
            prompt=TYPED if with_schema else PLAIN,
            column="sentiment" if with_schema else "response",
        )
        ended = command.run()
        wrong = abs(ended.status) + command.lost(rows)
        characters = 0
        for row in read_rows(command.output):
            if with_schema:
                wrong += any(row.get(field) is None for field in FIELDS)
                characters += len(str({field: row[field] for field in FIELDS}))
            else:
                characters += len(row["response"])
        return Took(ended, wrong, characters / rows)


def _checks(
    mode: str, rows: int, pairs: list[tuple[Took, Took]], longer: tuple[Took, Took]
) -> list[Check]:
    """Return what is asked of one mode."""

    def middle(which: int) -> float:
        return statistics.median(1e6 * pair[which].ended.cpu / rows for pair in pairs)

    ratios = [typed.ended.cpu / plain.ended.cpu for plain, typed in pairs]
    peak = statistics.median(pair[1].ended.peak_mb for pair in pairs)
    plain_peak, typed_peak = (each.ended.peak_mb for each in longer)
    return [
        Check(f"{mode}: CPU with a schema / without", statistics.median(ratios), most=MOST),
        Check(f"{mode}: CPU without", middle(0), "us a row"),
        Check(f"{mode}: CPU with", middle(1), "us a row"),
        Check(f"{mode}: peak with a schema, {rows * PART:,} rows", typed_peak, "MB"),
        Check(f"{mode}: that / peak without", typed_peak / plain_peak, most=MOST_GROWTH),
        # Not judged: caches that have a bound still fill.
        Check(f"{mode}: that / peak of {rows:,} rows", typed_peak / peak),
    ]
