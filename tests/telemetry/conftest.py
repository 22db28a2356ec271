"""Leave out what looks through packages that are not installed with the wheel alone."""

from __future__ import annotations

import importlib

collect_ignore = []
for needed, files in (
    ("opentelemetry.sdk", ["test_otel.py", "test_auto.py"]),
    ("structlog", ["test_lines.py"]),
):
    try:
        importlib.import_module(needed)
    except ModuleNotFoundError:
        collect_ignore += files
