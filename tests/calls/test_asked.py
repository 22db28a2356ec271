"""Equal questions are counted exactly, wherever the count is kept."""

from __future__ import annotations

import threading
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.calls import replay
from llmflow.calls.replay import Asked


def _question(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


_LISTS = st.lists(st.integers(0, 12).map(_question), max_size=60)


@given(questions=_LISTS, room=st.integers(0, 8), at_once=st.integers(1, 4))
def test_counts_are_exact_in_memory_and_beyond_it(
    questions: list[bytes], room: int, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_IN_MEMORY", room)
        patch.setattr(replay, "_NEW_AT_ONCE", at_once)
        patch.setattr(replay, "_BITS", 16)  # so that some share a bit
        counts, seen = Asked(), Counter[bytes]()
        for question in questions:
            assert counts.count(question) == seen[question]
            seen[question] += 1
        counts.close()


def test_a_large_number_is_counted_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_IN_MEMORY", 5_000)
    monkeypatch.setattr(replay, "_PAGES", 10)
    counts = Asked()
    for expected in range(2):
        keys = ((number * 2654435761).to_bytes(16, "big") for number in range(20_000))
        assert {counts.count(key) for key in keys} == {expected}
    counts.close()


def test_threads_share_a_count() -> None:
    counts, seen = Asked(), list[int]()

    def count() -> None:
        seen.extend(counts.count(b"the same") for _ in range(200))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(800))
    counts.close()
