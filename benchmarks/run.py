"""Measure llmflow against its targets: ``python benchmarks/run.py rpm tpm``, or ``all``.

Every scenario runs in a process of its own, with nothing learned before, and talks
over real HTTP to a simulator on another core (where there are two). What counts are
the ratios within one run: machines differ, and the same machine differs from hour to
hour. A table is printed, figures are saved in ``benchmarks/results``, and the exit
status is 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from results import RESULTS, show
from scenarios import ALL
from scenarios.checks import is_met
from scenarios.measure import Options
from scenarios.shared import member

NAMES = list(ALL)
TIME_LIMIT = 240.0
SECONDS_PER_ITEM = 0.001  # more items than usual may take longer
COOL_DOWN = 1.0


def in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a scenario once in a fresh process without a memory, and return its figures."""
    command = [sys.executable, __file__, name, "--here"]
    if options.n is not None:
        command += ["--n", str(options.n)]
    if options.seed:
        command += ["--seed", str(options.seed)]
    if options.rounds is not None:
        command += ["--rounds", str(options.rounds)]
    limit = TIME_LIMIT + SECONDS_PER_ITEM * (options.n or 0)
    failure = {"n": options.n or 0, "met": False, "target": "to run at all"}
    with tempfile.TemporaryDirectory(prefix="llmflow-benchmark-") as cache:
        env = {**os.environ, "XDG_CACHE_HOME": cache, "LLMFLOW_STATE_DIR": cache}
        try:
            done = subprocess.run(
                command, env=env, stdout=subprocess.PIPE, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return {**failure, "error": f"stopped after {limit:g} s"}
    if done.returncode:
        return {**failure, "error": f"ended with status {done.returncode}; see above"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def middle(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the median ratio, and what the others were."""
    failed = [each for each in results if "error" in each]
    if failed or len(results) == 1:
        return failed[0] if failed else results[0]
    if "checks" in results[0]:
        return middle_checks(results)
    key = "ratio" if "ratio" in results[0] else "cpu_us"
    result = sorted(results, key=lambda each: each[key])[(len(results) - 1) // 2]
    runs = [{k: each[k] for k in (key, "rejected", "lost") if k in each} for each in results]
    lost = max(each["lost"] for each in results)
    return {**result, "lost": lost, "met": result["met"] and not lost, "runs": runs}


def middle_checks(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure."""
    alike = zip(*(each["checks"] for each in results), strict=True)
    checks = [
        {**each[0], "value": statistics.median(check["value"] for check in each)} for each in alike
    ]
    return {**results[0], "checks": checks, "met": all(map(is_met, checks))}


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"one or more of {', '.join(NAMES)}, or all",
    )
    parser.add_argument("--n", type=int, help="items, instead of the scenario's own; not saved")
    parser.add_argument(
        "--rounds",
        type=int,
        help="rounds of overhead (9) and of others that compare ways to ask (5)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws other latencies and faults (0); not saved"
    )
    parser.add_argument(
        "--repeat", type=int, default=1, help="run each scenario so often; its median counts"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--member", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.scenarios) - {*NAMES, "all"}
    if unknown or not (options.scenarios or options.member):
        parser.error(f"name scenarios: {', '.join(NAMES)}, or all")
    return options


def main() -> int:
    """Run scenarios, print their figures and save them as JSON."""
    options = parsed()
    if options.member:
        member(options.member, options.n)
        return 0
    if options.here:
        given = Options(n=options.n, rounds=options.rounds, seed=options.seed)
        print(json.dumps(ALL[options.scenarios[0]](given)))
        return 0
    names = NAMES if "all" in options.scenarios else options.scenarios
    results = {}
    for name in names:
        runs = []
        for _ in range(options.repeat):
            runs.append(in_a_process(name, options))
            time.sleep(COOL_DOWN)
        results[name] = result = {"scenario": name, **middle(runs)}
        if "error" not in result and options.n is None and not options.seed:
            save(name, result)
        show(result)
    missed = [name for name, result in results.items() if not result["met"]]
    if len(results) > 1:
        print(
            f"{len(results) - len(missed)} of {len(results)} met;", "missed:", *missed or ["none"]
        )
    return 1 if missed else 0


def save(name: str, result: dict[str, Any]) -> None:
    """Save figures as JSON, one sample of the timeline per line."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, separators=(",", ":"))
    text = text.replace("],[", "],\n[").replace(',"', ',\n"')
    (RESULTS / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
