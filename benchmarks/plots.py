"""Draw what the simulator saw of each scenario, from the saved figures: ``benchmarks/plots``.

Three panels on one axis of time: how much of the quota was used, how many requests were
in flight, how many were rejected. Plain SVG, without any library.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PLOTS = HERE / "plots"

WIDTH, LEFT, RIGHT, TOP = 720, 62, 18, 56
PANELS = (("used", 150), ("in flight", 80), ("rejected", 60))
GAP, BOTTOM = 30, 34
INK, PALE, GRID = "#24292f", "#6e7781", "#d8dee4"
BLUE, GREEN, RED, ORANGE = "#0969da", "#1a7f37", "#cf222e", "#bc4c00"
BIN_SECONDS = 0.5  # the simulator counts in quarters; two make a calmer line
STYLE = f"""
text{{font:12px system-ui,sans-serif;fill:{INK}}} .small{{font-size:11px;fill:{PALE}}}
.title{{font-size:14px;font-weight:600}} .grid{{stroke:{GRID};stroke-width:1}}
.line{{fill:none;stroke-width:1.6;stroke-linejoin:round}} .quota{{stroke-dasharray:5 4}}
""".strip()

Points = Sequence[tuple[float, float]]


class Panel:
    """One pair of axes: turns seconds and amounts into places of the drawing."""

    def __init__(self, *, top: float, height: float, seconds: float, most: float) -> None:
        self.top, self.height, self.seconds = top, height, seconds
        self.step = nice_step(most)
        self.most = self.step * max(1, math.ceil(most / self.step - 1e-9))

    def x(self, seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds

    def y(self, amount: float) -> float:
        return self.top + self.height * (1 - min(amount, self.most) / self.most)

    def axes(self, label: str) -> list[str]:
        """Return the horizontal lines with their amounts, and the panel's name."""
        parts = []
        for index in range(round(self.most / self.step) + 1):
            amount = index * self.step
            y = self.y(amount)
            parts += [
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>',
                text(LEFT - 6, y + 4, f"{amount:,.6g}", anchor="end"),
            ]
        parts.append(text(LEFT, self.top - 7, label))
        return parts

    def line(self, points: Points, colour: str, *, more: str = "") -> str:
        path = "L".join(f"{self.x(t):.1f} {self.y(value):.1f}" for t, value in points)
        return f'<path class="line{more}" stroke="{colour}" d="M{path}"/>'

    def bars(self, points: Points, width: float, colour: str) -> str:
        floor = self.y(0)
        parts = (
            f"M{self.x(t):.1f} {floor:.1f}V{self.y(value):.1f}H{self.x(t + width):.1f}V{floor:.1f}z"
            for t, value in points
            if value
        )
        return f'<path fill="{colour}" d="{"".join(parts)}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    """Return a small label."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="small" {place}>{escape(words)}</text>'


def nice_step(most: float) -> float:
    """Return a round distance of grid lines: three or so up to the top."""
    if most <= 0:
        return 1.0
    rough = most / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.99)
    return max(1.0, step)


def quota_steps(result: dict[str, Any], seconds: float) -> Points:
    """Return the requests or tokens per second that the provider allows, as a line of steps."""
    settings = result["settings"]
    both = settings.get("itpm", 0) + settings.get("otpm", 0)
    per_minute = settings.get("rpm") or settings.get("tpm") or both
    schedule, others = settings.get("schedule") or [(0, 1)], settings.get("others") or [(0, 0)]
    begins = sorted({0.0, *(at for at, _ in schedule), *(at for at, _ in others)})
    steps = [
        (at, per_minute / 60 * _value(schedule, at, 1.0) * (1 - _value(others, at, 0.0)))
        for at in begins
    ]
    points = []
    for (at, rate), (end, _) in zip(steps, [*steps[1:], (seconds, 0.0)], strict=True):
        points += [(min(at, seconds), rate), (min(end, seconds), rate)]
    return points


def _value(steps: Points, at: float, before: float) -> float:
    """Return the value that holds at a moment; `before` is that before the first step."""
    return next((value for begin, value in reversed(steps) if begin <= at), before)


def binned(result: dict[str, Any]) -> tuple[float, list[dict[str, float]]]:
    """Return the timeline in spans of half a second: sums, and the most in flight."""
    line = result["timeline"]
    together = max(1, round(BIN_SECONDS / line["bin_seconds"]))
    rows = [dict(zip(line["columns"], row, strict=True)) for row in line["rows"]]
    bins = []
    for begin in range(0, len(rows), together):
        part = rows[begin : begin + together]
        each = {name: float(sum(row[name] for row in part)) for name in line["columns"]}
        each["max_in_flight"] = float(max(row["max_in_flight"] for row in part))
        bins.append(each)
    return together * line["bin_seconds"], bins


def summary(result: dict[str, Any]) -> str:
    """Return the figures in one line."""
    return (
        f"{result['n']:,} items in {result['seconds']:.1f} s, ideal {result['ideal']:.1f} s: "
        f"{result['ratio']:.3f}x, {result['rejected']:.2%} rejected, {result['lost']} lost"
    )


def draw(result: dict[str, Any]) -> str:
    """Return the drawing of one scenario."""
    width, bins = binned(result)
    seconds = max(len(bins) * width, result["seconds"], result["ideal"])
    unit = result["plot"]
    column = "tokens_charged" if unit == "tokens" else "admitted"
    quota = quota_steps(result, seconds)
    used = [(n * width, max(0.0, each[column]) / width) for n, each in enumerate(bins)]
    top = float(TOP)
    parts = []
    # A short first burst would flatten all the rest: it is cut off, and named.
    ceiling = 2.0 * max(value for _, value in quota)
    above = [value for _, value in used if value > ceiling]
    short = 0 < len(above) <= 2
    cut = f"; first burst {max(above):,.0f}" if short else ""
    most = ceiling if short else max(value for _, value in (*used, *quota))
    panel = Panel(top=top, height=PANELS[0][1], seconds=seconds, most=most)
    parts += panel.axes(f"{unit} admitted per second{cut}")
    parts.append(panel.line(steps_of(used, width), BLUE))
    parts.append(panel.line(quota, ORANGE, more=" quota"))
    parts.append(legend(panel, [(BLUE, "used", ""), (ORANGE, "quota", " quota")]))
    top += PANELS[0][1] + GAP
    parts += lower_panels(bins, width, seconds, top)
    top += PANELS[1][1] + GAP + PANELS[2][1]
    parts += time_axis(panel, top, result["ideal"])
    title = f"{result['scenario']}: {summary(result)}"
    height = top + BOTTOM
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
            f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def steps_of(points: Points, width: float) -> Points:
    """Return counts per span as a line of steps."""
    return [corner for t, value in points for corner in ((t, value), (t + width, value))]


def lower_panels(
    bins: list[dict[str, float]], width: float, seconds: float, top: float
) -> list[str]:
    """Return the panels of what was in flight and what was rejected."""
    parts = []
    for (_, height), column, label, colour in (
        (PANELS[1], "max_in_flight", "requests in flight, at most", GREEN),
        (PANELS[2], "rejected", f"requests rejected per {width:g} s", RED),
    ):
        points = [(n * width, each[column]) for n, each in enumerate(bins)]
        most = max(value for _, value in points)
        panel = Panel(top=top, height=height, seconds=seconds, most=most)
        parts += panel.axes(label if most else f"{label}: none")
        if column == "rejected":
            parts.append(panel.bars(points, width, colour))
        else:
            parts.append(panel.line(steps_of(points, width), colour))
        top += height + GAP
    return parts


def time_axis(panel: Panel, bottom: float, ideal: float) -> list[str]:
    """Return the seconds below, and a line through all panels at the ideal's end."""
    step = max(1.0, nice_step(panel.seconds * 0.4))
    parts = [
        text(panel.x(t * step), bottom + 16, f"{t * step:g}{'' if t else ' s'}", anchor="middle")
        for t in range(int(panel.seconds / step) + 1)
    ]
    x = panel.x(ideal)
    path = f'<path d="M{x:.1f} {TOP - 4}V{bottom:.1f}" stroke="{PALE}" stroke-dasharray="2 3"/>'
    parts += [path, text(x, bottom + 30, "ideal end", anchor="middle")]
    return parts


def legend(panel: Panel, entries: Sequence[tuple[str, str, str]]) -> str:
    """Return the names of the lines, at the panel's upper right."""
    parts = []
    x = WIDTH - RIGHT - 74 * len(entries)
    y = panel.top - 11
    for colour, name, more in entries:
        parts.append(
            f'<path class="line{more}" stroke="{colour}" d="M{x} {y}H{x + 22}"/>'
            + text(x + 27, y + 4, name)
        )
        x += 74
    return "".join(parts)


def main() -> int:
    """Draw every scenario that has a timeline, or those that are named."""
    PLOTS.mkdir(exist_ok=True)
    named = sys.argv[1:]
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text())
        if "timeline" in result and (not named or path.stem in named):
            target = PLOTS / f"{path.stem}.svg"
            target.write_text(draw(result), encoding="utf-8")
            print(target.relative_to(HERE.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
