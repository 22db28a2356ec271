"""Results of measurements, as lines on a terminal and as rows of a page.

``python benchmarks/results.py`` prints the tables of ``benchmarks/README.md`` from the saved
figures; with ``--write`` it puts them there, between the comments that mark them. What was not
measured here keeps the rows that the page has.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenarios.checks import is_met

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def ratio(result: dict[str, Any]) -> str:
    """Return what is judged, with its unit."""
    if "ratio" in result:
        return f"{result['ratio']:.3f}x"
    return f"{result['cpu_us']:.1f} us, {result['peak_mb']:.0f} MB"


def share(result: dict[str, Any]) -> str:
    """Return the share of rejections."""
    return f"{result['rejected']:.2%}" if "rejected" in result else "-"


def amount(check: dict[str, Any], value: float | None = None) -> str:
    """Return a figure with its unit: what was measured, or another value of its kind."""
    number, unit = check["value"] if value is None else value, check["unit"]
    if unit == "x":
        return f"{number:.2f}x"
    text = f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"
    return f"{text} {unit}".strip()


def wanted(check: dict[str, Any]) -> str:
    """Return a figure's target."""
    if check["most"] is not None:
        return f"<= {amount(check, check['most'])}"
    return "-" if check["least"] is None else f">= {amount(check, check['least'])}"


def show(result: dict[str, Any]) -> None:
    """Print one line with all that is judged."""
    name = result["scenario"]
    if "error" in result:
        print(f"{name:18} FAILED: {result['error']}", flush=True)
        return
    if "checks" in result:
        for check in result["checks"]:
            met = "met" if is_met(check) else "MISSED"
            verdict = f"{met}: {wanted(check)}" if wanted(check) != "-" else ""
            print(f"{name:18} {check['what']:42} {amount(check):>18}  {verdict}", flush=True)
        return
    took = "-"
    if "ideal" in result:
        took = f"{result['seconds']:.2f} s of {result['ideal']:.2f} s"
    met = "met" if result["met"] else "MISSED"
    line = (
        f"{name:18} {took:18} {ratio(result):17} {share(result):>8} rejected {result['lost']} lost"
    )
    if "peak <=" in result["target"]:
        line += f" {result['peak_mb']:.0f} MB"
    shares = "".join(f" {each:.0%}" for each in result.get("shares", ()))
    print(f"{line}{shares and f'  shares{shares}'}  {met}: {result['target']}", flush=True)
    if result.get("errors"):
        print(f"{'':18} errors: {result['errors']}", flush=True)
    for each in result.get("runs", ()):
        print(f"{'':18} run: " + ", ".join(f"{k} {v:.4g}" for k, v in each.items()), flush=True)


def show_peer(scenario: str, name: str, result: dict[str, Any]) -> None:
    """Print one line of a client's run."""
    if "error" in result:
        print(f"{scenario:9} {name:17} FAILED: {result['error']}", flush=True)
        return
    stopped = "  stopped" if result["stopped"] else ""
    print(
        f"{scenario:9} {name:17} {result['seconds']:7.2f} s of {result['ideal']:6.2f} s "
        f"{result['ratio']:6.3f}x {result['rejected_per_item']:7.3f} rejected per item "
        f"{result['lost']:5} lost{stopped}",
        flush=True,
    )


def rows_of(page: str, name: str) -> dict[str, list[str]]:
    """Return the rows that a page has in a table, by the scenario that they tell of."""
    found = re.search(rf"<!-- {name} -->\n((?:(?!<!--).*\n)*)<!-- end -->", page)
    rows: dict[str, list[str]] = {}
    scenario = ""
    for line in found[1].splitlines() if found else ():
        named = re.match(r"\| `(\w+)` \|", line)
        scenario = named[1] if named else scenario
        if scenario:
            rows.setdefault(scenario, []).append(line)
    return rows


def scenario_rows(names: tuple[str, ...], known: Mapping[str, list[str]]) -> list[str]:
    """Return the table of llmflow's own figures."""
    rows = [
        "| scenario | what | measured | rejected | lost | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            rows += known.get(name, [])
            continue
        result = json.loads(path.read_text())
        measured = ratio(result)
        if "ideal" in result:
            measured += f" ({result['seconds']:.1f} s of {result['ideal']:.1f} s)"
        if "peak <=" in result["target"]:
            measured += f", {result['peak_mb']:.0f} MB"
        if "shares" in result:
            measured += ", shares " + " and ".join(f"{each:.0%}" for each in result["shares"])
        what = result["what"] + ("" if name in _COUNTED else f"; n = {result['n']:,}")
        cells = (
            f"`{name}`",
            what,
            measured,
            share(result),
            str(result["lost"]),
            result["target"],
            "yes" if result["met"] else "**no**",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def run_rows(names: tuple[str, ...], known: Mapping[str, list[str]]) -> list[str]:
    """Return the table of the scenarios with several figures."""
    rows = ["| scenario | figure | measured | target | met |", "|---|---|---|---|---|"]
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            rows += known.get(name, [])
            continue
        result = json.loads(path.read_text())
        rows.append(f"| `{name}` | *{result['what']}* | | | |")
        for check in result["checks"]:
            target = wanted(check)
            met = "" if target == "-" else "yes" if is_met(check) else "**no**"
            rows.append(f"| | {check['what']} | {amount(check)} | {target} | {met} |")
    return rows


_COUNTED = ("waiters",)  # its text says how many


def peer_rows() -> list[str] | None:
    """Return the table of all clients: ratio to the ideal, rejections per item, items lost."""
    path = RESULTS / "peers.json"
    if not path.exists():
        return None
    saved = json.loads(path.read_text())
    runs = saved["runs"]
    rows = [
        f"| client | {' | '.join(f'`{each}`' for each in runs)} |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for name, versions in saved["versions"].items():
        told = ", ".join(f"{package} {version}" for package, version in versions.items())
        cells = [told, *(_peer_cell(run.get(name)) for run in runs.values())]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _peer_cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    if "error" in result:
        return "failed"
    took = "stopped" if result["stopped"] else f"{result['ratio']:.2f}x"
    lost = f"**{result['lost']} lost**" if result["lost"] else "0 lost"
    return f"{took}, {result['rejected_per_item']:.2f}, {lost}"


def replace(page: str, name: str, rows: list[str]) -> str:
    """Put rows between the comments that mark their place in a page."""
    marked = re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).*\n)*(<!-- end -->)")
    return marked.sub(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], page)


def main() -> int:
    """Print the tables, or write them into the page."""
    from scenarios import RUNS, SCENARIOS

    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    tables = {
        "scenarios": scenario_rows(tuple(SCENARIOS), rows_of(text, "scenarios")),
        "runs": run_rows(tuple(RUNS), rows_of(text, "runs")),
    }
    peers = peer_rows()
    if peers is not None:
        tables["peers"] = peers
    if "--write" not in sys.argv[1:]:
        print("\n\n".join("\n".join(rows) for rows in tables.values()))
        return 0
    for name, rows in tables.items():
        text = replace(text, name, rows)
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
