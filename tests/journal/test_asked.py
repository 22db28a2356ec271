"""Equal questions are counted exactly, wherever the count is kept."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.journal import journal
from llmflow.journal.journal import Asked

_LISTS = st.lists(st.integers(0, 12).map(lambda number: b"%016d" % number), max_size=60)


@given(questions=_LISTS, room=st.integers(0, 8))
def test_counts_are_exact_in_memory_and_beyond_it(questions: list[bytes], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_IN_MEMORY", room)
        counts, seen = Asked(), Counter[bytes]()
        for question in questions:
            assert counts.count(question) == seen[question]
            seen[question] += 1
        counts.close()
