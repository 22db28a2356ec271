"""What the tests of the journal share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmflow.journal import Journal
from llmflow.types import Response, Usage


def key(number: int = 0) -> bytes:
    return number.to_bytes(16, "big")


def answer(number: int = 0, **changes: Any) -> Response:
    values: dict[str, Any] = {
        "text": f"answer {number}",
        "usage": Usage(input_tokens=10, output_tokens=20),
        "finish_reason": "stop",
        "model": "model",
        "provider": "provider",
        "request_id": f"req_{number}",
        "cost": 0.25,
        "attempts": 1,
        "waited": 0.5,
        "raw": {"id": number, "choices": [{"text": f"answer {number}"}]},
    }
    return Response(**values | changes)


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[Journal]:
    journal = Journal.open(folder, **options)
    try:
        yield journal
    finally:
        journal.close()


def start(program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a program that can import what the tests can; what it prints can be read."""
    root = Path(__file__).parent.parent.parent
    path = os.pathsep.join([str(root), str(root / "providers"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        **options,
    )
