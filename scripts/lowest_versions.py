"""Print the lowest declared version of each dependency, for pip.

Usage::

    python scripts/lowest_versions.py [EXTRA ...] > lowest.txt
    pip install --constraint lowest.txt llmflow        # what is needed, at its lowest
    pip install --requirement lowest.txt               # all that is named

What pyproject.toml declares as ``name>=1.2`` is printed as ``name==1.2``. The core tests run
once with these, so that a bound that is too low is found here and not by a user. It needs
nothing but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[(?P<extras>[^\]]*)\])?"
    r"\s*(?P<bounds>[^;]*?)\s*(?:;\s*(?P<marker>.+))?"
)
LOWEST = re.compile(r"(?:>=|==|~=)\s*(?P<version>[0-9][A-Za-z0-9.]*)")


def lowest_versions(project: dict[str, Any], extras: Iterable[str] = ()) -> list[str]:
    """Return each dependency of a project, and of some of its extras, at its lowest version.

    Args:
        project: the table ``project`` of a pyproject.toml.
        extras: names of extras; what they name of the project's own is followed.

    Raises:
        ValueError: a dependency says no lowest version, or there is no such extra.
    """
    optional = project.get("optional-dependencies", {})
    given = list(project.get("dependencies", ()))
    seen = set()
    waiting = list(extras)
    while waiting:
        extra = waiting.pop(0)
        if extra not in optional:
            raise ValueError(f"there is no extra {extra!r}, only {', '.join(optional) or 'none'}")
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in optional[extra]:
            parts = _parts(requirement)
            if _same(parts["name"], project["name"]):
                waiting += [each.strip() for each in parts["extras"].split(",")]
            else:
                given.append(requirement)
    return list(dict.fromkeys(map(_pinned, given)))


def _pinned(requirement: str) -> str:
    parts = _parts(requirement)
    lowest = LOWEST.search(parts["bounds"])
    if lowest is None:
        raise ValueError(f"{requirement!r} says no lowest version")
    marker = f"; {parts['marker']}" if parts["marker"] else ""
    # Without its extras: pip takes none in a constraint.
    return f"{parts['name']}=={lowest['version']}{marker}"


def _parts(requirement: str) -> dict[str, str]:
    match = REQUIREMENT.fullmatch(requirement.strip())
    if match is None:
        raise ValueError(f"{requirement!r} is no requirement")
    return match.groupdict(default="")


def _same(name: str, other: str) -> bool:
    return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", other).lower()


def main() -> None:
    """Print them, or one line that says what is wrong."""
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    try:
        print(*lowest_versions(project, sys.argv[1:]), sep="\n")
    except ValueError as error:
        sys.exit(f"lowest_versions: {error}")


if __name__ == "__main__":
    main()
