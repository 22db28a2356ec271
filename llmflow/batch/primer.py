"""Submits one row per cached prefix before the rest, to warm caches.

Rows of one job are worked on at the same time, and so none finds in the provider's prompt
cache what another one has put there: each pays for writing it. A row that was answered
before them spares them that.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from llmflow.batch.record import JobRecord
from llmflow.batch.spool import Spool, copy_rows

_LEAST_ROWS = 2


class Primers:
    """The jobs of this process that warm the provider's cache."""

    def __init__(self) -> None:
        self._tags: dict[bytes, str] = {}

    def choose(self, spool: Spool) -> tuple[dict[bytes, str], str | None]:
        """Choose what goes before a file.

        Returns:
            A row for each beginning that several rows share and no primer has, and the tag of
            the latest job that is the primer of another one.
        """
        rows, last = dict[bytes, str](), None
        for digest, names in spool.prefixes.items():
            if (tag := self._tags.get(digest)) is not None:
                last = tag
                continue
            sharing = list(islice(filter(spool.names.__contains__, names), _LEAST_ROWS))
            if len(sharing) == _LEAST_ROWS:  # so that others are left for the job after it
                rows[digest] = sharing[0]
        return rows, last

    def note(self, digests: dict[bytes, str], tag: str) -> None:
        """Note that a job has the rows of these beginnings."""
        self._tags.update(dict.fromkeys(digests, tag))


def divide(
    spool: Spool, record: JobRecord, first: set[str], path: Path
) -> tuple[JobRecord, JobRecord]:
    """Split a sealed file into primer and rest; return their records.

    Blocks for as long as the disk takes. Until the records are written down, the files
    belong to nobody.

    Args:
        spool: the file; what is left of it has the rest.
        record: what was to be written down of it.
        first: the rows of the primer.
        path: where the primer's file will be.
    """
    size = copy_rows(spool.path, path, first.__contains__)
    rest = copy_rows(spool.path, spool.path, lambda name: name not in first)
    tokens = record.tokens * len(first) / record.requests
    primer = record.but(tag=path.stem, requests=len(first), size=size, tokens=tokens)
    others = record.but(
        requests=record.requests - len(first),
        size=rest,
        tokens=record.tokens - tokens,
        after=primer.tag,
    )
    return primer, others
