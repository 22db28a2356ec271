"""Reads rows from a folder: one for each text file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmflow.rows.reading import BOM, Reading, Row, Rows, reading
from llmflow.surrogates import well_formed

TEXT_SUFFIXES: Final = (".txt", ".md")


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the texts of a folder and its subfolders, by name.

    Hidden files and folders are passed over, and links to folders are not followed.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            for name, file in folder_files(path):
                yield f"{entry.name}/{name}", file
        elif path.suffix.lower() in TEXT_SUFFIXES and entry.is_file():
            yield entry.name, path


def folder_rows(folder: Path, how: Reading) -> Rows:
    """Yield one row per text file, with its relative name."""
    with reading(how.name):
        for name, path in folder_files(folder):
            yield _row(well_formed(name), path, how)


def _row(name: str, path: Path, how: Reading) -> Row:
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return how.bad(f"{path} cannot be read: {reason}", error_from=error, file=name)
    encoding = how.encoding or "utf-8"
    try:
        text = raw.removeprefix(BOM).decode(encoding)
    except UnicodeError as error:
        line = raw.count(b"\n", 0, getattr(error, "start", 0)) + 1
        return how.bad(f"{path}, line {line}: {how.not_text}", file=name)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").rstrip()
    return {"file": name, how.text_field: text}
