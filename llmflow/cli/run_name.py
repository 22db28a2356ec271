"""Which run a command belongs to: the one that writes the same output."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from llmflow.errors import ConfigurationError

_LONGEST: Final = 40


def run_name(output: str, *, task: Iterable[str | None] = ()) -> str:
    """Return the name of the run that writes this output.

    The same file is the same run, whatever is asked: what changed is found out item by
    item. What goes to a stream is told apart by its task.

    >>> run_name("/data/summaries.jsonl")
    'summaries-3cb11b'

    Args:
        output: the path, or ``-``.
        task: what is asked of what, for an output that is a stream.

    Raises:
        ConfigurationError: the path leads to itself.
    """
    path = Path(output)
    try:
        is_file = output != "-" and (path.is_file() or not path.exists())
    except OSError:  # such as a name that is too long: whoever opens it says so
        is_file = True
    if is_file:
        whole = _resolved(path)
        stem, identity = whole.stem, str(whole)
    else:
        stem, identity = "stream", "\0".join(each or "" for each in task)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:_LONGEST] or "run"
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    return f"{slug}-{digest}"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError is how Python before 3.13 says it
        reason = (error.strerror if isinstance(error, OSError) else None) or "a link to itself"
        raise ConfigurationError(f"{path} cannot be written: {reason}") from None
