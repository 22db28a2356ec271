"""Finds and removes files that a killed process left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmflow.batch.record import JobStore
from llmflow.batch.spool import names_of, remove_all


def end_answered(folder: Path, store: JobStore, is_known: Callable[[str], bool]) -> set[str]:
    """End jobs whose rows are all recorded; return the other tags.

    Where all is answered no call comes that would wake such a job.

    Args:
        folder: where the files of jobs are.
        store: where jobs are written down.
        is_known: whether a row's outcome is.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    wanted: set[str] = set()
    for record in store.all():
        if not record.is_active:
            continue
        path = folder / f"{record.tag}.jsonl"
        try:
            is_over = record.state == "fetched" and all(map(is_known, names_of(path)))
        except (OSError, ValueError):
            is_over = False  # to be told to whoever goes on with it
        if is_over:
            store.put([record.but(state="done", outcome=record.native or "ended")])
            remove_all([path, folder / f"{record.tag}.results"])
        else:
            wanted.add(record.tag)
    return wanted


def tidy(folder: Path, store: JobStore, is_known: Callable[[str], bool]) -> None:
    """Do `end_answered`, and remove files of no job, undisturbed.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    wanted = end_answered(folder, store, is_known)
    for path in folder.iterdir():
        if path.suffix == ".part" or path.name.partition(".")[0] not in wanted:
            remove_all([path])
