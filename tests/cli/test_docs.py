"""The page of help texts is that of the commands as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "make_cli_docs.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not installed")
def test_the_help_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
