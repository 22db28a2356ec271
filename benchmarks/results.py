"""What was measured, as lines on a terminal and as rows of a page.

``python benchmarks/results.py`` prints the rows of ``benchmarks/README.md`` from the saved
figures; with ``--write`` it puts them there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def show(result: dict[str, Any]) -> None:
    """Print one line with all that is judged."""
    name = result["scenario"]
    if "error" in result:
        print(f"{name:9} FAILED: {result['error']}", flush=True)
        return
    took = "-"
    if "ideal" in result:
        took = f"{result['seconds']:.2f} s of {result['ideal']:.2f} s"
    met = "met" if result["met"] else "MISSED"
    line = (
        f"{name:9} {took:18} {ratio(result):17} {share(result):>8} rejected {result['lost']} lost"
    )
    shares = "".join(f" {each:.0%}" for each in result.get("shares", ()))
    print(f"{line}{shares and f'  shares{shares}'}  {met}: {result['target']}", flush=True)
    if result.get("errors"):
        print(f"{'':9} errors: {result['errors']}", flush=True)
    for each in result.get("runs", ()):
        print(f"{'':9} run: " + ", ".join(f"{k} {v:.4g}" for k, v in each.items()), flush=True)


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
