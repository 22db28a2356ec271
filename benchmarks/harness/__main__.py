"""Run the harness: ``python -m benchmarks.harness [KIND ...] --seed 1``."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import multiprocessing.pool
import sys
import time
from collections.abc import Iterator

from .kinds import KINDS, draw
from .report import HEADING, Summary, details, write
from .world import Outcome, run

TUNING, HELD_OUT = 1, 2
_CHUNK = 4


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness",
        description="Run the real admission through random settings in virtual time.",
        epilog="kinds: " + "; ".join(f"{name} ({kind.what})" for name, kind in KINDS.items()),
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="one or more kinds; else all")
    parser.add_argument(
        "--seed",
        type=int,
        default=TUNING,
        help=f"what settings are drawn from: {TUNING} to tune a rule on (the default), "
        f"{HELD_OUT} to report it",
    )
    parser.add_argument("--settings", type=int, default=200, help="settings per kind (200)")
    parser.add_argument(
        "--wide", action="store_true", help="300 to 60,000 RPM instead of 600 to 6,000"
    )
    parser.add_argument("--in-flight", type=int, default=10_000, help="each client's cap (10,000)")
    parser.add_argument(
        "--write", action="store_true", help="put the table into benchmarks/README.md"
    )
    parser.add_argument("--only", type=int, metavar="INDEX", help="one setting, in detail")
    parser.add_argument("--worst", type=int, default=3, help="worst settings to name (3)")
    parser.add_argument("--processes", type=int, default=2, help="how many run at a time (2)")
    options = parser.parse_args()
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return options


def one(task: tuple[str, int, int, bool, int]) -> tuple[str, int, Outcome]:
    """Run one setting, in whatever process."""
    kind, index, seed, wide, in_flight = task
    outcome = run(draw(kind, index, seed=seed, wide=wide, in_flight=in_flight))
    gc.collect()
    return kind, index, outcome


def prepare() -> None:
    """Have a process collect garbage between runs only: a tenth of the time."""
    gc.freeze()
    gc.disable()


def main() -> int:
    """Run what was asked for, and print a table; return 1 if a target was missed."""
    options = parsed()
    names = options.kinds or list(KINDS)
    if options.only is not None:
        for name in names:
            setting = (name, options.only, options.seed, options.wide, options.in_flight)
            print(details(*one(setting)))
        return 0
    began = time.monotonic()
    print(f"seed {options.seed}{', wide' if options.wide else ''}")
    print(HEADING, flush=True)
    summaries = []
    with multiprocessing.Pool(options.processes, prepare) as pool:
        for name in names:
            if options.wide and not KINDS[name].ranged:
                continue
            summary = Summary(name)
            for _, index, outcome in _run(pool, name, options):
                summary.add(index, outcome)
            print(summary.row(), flush=True)
            summaries.append(summary)
    print(f"\n{time.monotonic() - began:.0f} s. The worst, to run again with --only INDEX:")
    for summary in summaries:
        for line in summary.worst(options.worst):
            print(line)
    if options.write:
        write(summaries, wide=options.wide)
    return 0 if options.wide or all(each.met is not False for each in summaries) else 1


def _run(
    pool: multiprocessing.pool.Pool, name: str, options: argparse.Namespace
) -> Iterator[tuple[str, int, Outcome]]:
    count = min(options.settings, KINDS[name].settings or options.settings)
    tasks = [(name, i, options.seed, options.wide, options.in_flight) for i in range(count)]
    return pool.imap(one, tasks, chunksize=1 if count < 50 else _CHUNK)


if __name__ == "__main__":
    sys.exit(main())
