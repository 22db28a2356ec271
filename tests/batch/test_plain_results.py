"""Results in which there are rows alone are counted in one go, as line by line."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmflow.batch import result_files
from llmflow.batch.spool import name_in, name_of

NAMES = [name_of(bytes([number]) * 16, 0) for number in range(5)]
ROWS = [b'{"id":"x%d","custom_id":"%b"}' % (n, name.encode()) for n, name in enumerate(NAMES)]


def line_by_line(pending: set[str], contents: Sequence[bytes]) -> dict[bytes, int] | None:
    """Do the same in the plainest way."""
    found = {}
    for content in contents:
        lines = content.removesuffix(b"\n").split(b"\n") if content else []
        for line in lines:
            is_one = line.startswith(b"{") and line.endswith(b"}")
            name = name_in(line) if is_one else None
            if name is None or name not in pending:
                return None
            pending.remove(name)
        if lines:
            found[lines[-1]] = len(lines)
    return found


def looked_through(
    pending: set[str], contents: Sequence[bytes], *, at_once: int
) -> dict[bytes, int] | None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(result_files, "_READ_AT_ONCE", at_once),
    ):
        paths = []
        for number, content in enumerate(contents):
            paths.append(Path(folder) / f"{number}.jsonl")
            paths[-1].write_bytes(content)
        return result_files._last_of_distinct_rows(pending, paths)


FILE = st.lists(
    st.sampled_from([*ROWS, b"", b"{", b"{}", ROWS[0][:20], b'{"custom_id":"other"}'])
    | st.binary(max_size=4),
    max_size=6,
).map(b"\n".join)


@given(st.lists(FILE, max_size=3), st.booleans(), st.sampled_from([1, 7, 60, 200, 2**20]))
@example([b"\n".join(ROWS[:3]), b"\n".join(ROWS[3:])], True, 60)
@example([ROWS[0] + b"\n" + ROWS[0]], True, 7)
def test_rows_alone_are_counted_wherever_a_piece_ends(
    contents: list[bytes], is_ended: bool, at_once: int
) -> None:
    if is_ended:
        contents = [each and each + b"\n" for each in contents]
    pending, expected = set(NAMES), set(NAMES)
    found = looked_through(pending, contents, at_once=at_once)
    assert found == line_by_line(expected, contents)
    if found is not None:
        assert pending == expected


@pytest.mark.parametrize("at_once", [100, 2**20])
def test_a_line_without_end_is_no_row_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(result_files, "_LONGEST_PLAIN", 1000)
    long = b'{"custom_id":"%b","x":"%b"' % (NAMES[0].encode(), b"x" * 5_000)
    assert looked_through(set(NAMES), [ROWS[1] + b"\n" + long], at_once=at_once) is None
