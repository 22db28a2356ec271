"""Run the harness: ``python -m benchmarks.harness [KIND ...] --seed 1``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from .kinds import KINDS
from .report import HEADING, Summary, details, write
from .running import Task, one, runner

TUNING, HELD_OUT = 1, 2
ALL_SETTINGS = 200


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
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
    parser.add_argument(
        "--settings", type=int, default=ALL_SETTINGS, help="settings per kind (200)"
    )
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
    options = parser.parse_args(arguments)
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if options.write and (options.kinds or options.settings != ALL_SETTINGS):
        parser.error("--write is for all kinds with all their settings")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and print a table; return 1 if a target was missed."""
    options = parsed(arguments)
    names = options.kinds or list(KINDS)
    if options.only is not None:
        for name in names:
            print(details(name, *one(task(name, options.only, options))))
        return 0
    began = time.monotonic()
    print(f"seed {options.seed}{', wide' if options.wide else ''}")
    print(HEADING, flush=True)
    summaries = []
    with runner(options.processes) as outcomes:
        for name in names:
            if options.wide and not KINDS[name].ranged:
                continue
            summary = Summary(name)
            for index, outcome in outcomes(tasks(name, options)):
                summary.add(index, outcome)
            print(summary.row(judged=not options.wide), flush=True)
            summaries.append(summary)
    print(f"\n{time.monotonic() - began:.0f} s. The worst, to run again with --only INDEX:")
    for summary in summaries:
        for line in summary.worst(options.worst):
            print(line)
    if options.write:
        write(summaries, wide=options.wide)
    return 0 if options.wide or all(each.met is not False for each in summaries) else 1


def tasks(name: str, options: argparse.Namespace) -> list[Task]:
    """Return all settings of a kind."""
    count = min(options.settings, KINDS[name].settings or options.settings)
    return [task(name, index, options) for index in range(count)]


def task(name: str, index: int, options: argparse.Namespace) -> Task:
    """Return one setting of a kind."""
    return Task(name, index, options.seed, options.wide, options.in_flight)


if __name__ == "__main__":
    sys.exit(main())
