"""Print the README's commands, so that CI runs what the README says: ``readme_commands.py [N]``."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def commands(text: str) -> list[str]:
    """Return the lines after ``$`` in a document's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


if __name__ == "__main__":
    found = commands((Path(__file__).parent.parent / "README.md").read_text("utf-8"))
    print(found[int(sys.argv[1]) - 1] if len(sys.argv) > 1 else "\n".join(found))
