"""Files of results are read in pieces, whatever stands in them, and the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, lenient_json
from llmflow.batch import Batch, result_files
from llmflow.batch.result_files import Results, Unread, bounds_for
from llmflow.provider import BatchRow
from tests.batch.fakes import FakeBatchAPI, FakeProvider, FakeServer
from tests.examples import examples

pytestmark = pytest.mark.every_python


def read(line: bytes) -> str:
    row = lenient_json.loads(line)
    if not isinstance(row, dict) or "name" not in row:
        raise ValueError("no row")
    return str(row["name"])


async def results_of(folder: Path, *contents: bytes) -> list[str | Unread]:
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.jsonl")
        paths[-1].write_bytes(content)
    return [each async for batch in Results(paths, read) for each in batch]


async def test_rows_come_in_order_and_blank_lines_are_none(tmp_path: Path) -> None:
    rows = b"\n \n".join(b'{"name":"%d"}' % n for n in range(1000))
    found = await results_of(tmp_path, rows, b"", b"\n\n", b'{"name":"last"}')
    assert found == [*map(str, range(1000)), "last"]


async def test_a_row_that_is_cut_by_line_breaks_is_put_together(tmp_path: Path) -> None:
    content = b'{"name":"a\n\n{b}\n","x":\n1}\n{"name":"c"}\n{"name":"d\n'
    assert await results_of(tmp_path, content) == [
        "a\n\n{b}\n",
        "c",
        Unread(b'{"name":"d\n'),
    ]


async def test_a_row_does_not_go_on_in_the_next_file(tmp_path: Path) -> None:
    found = await results_of(tmp_path, b'{"name":"a', b'b"}\n{"name":"c"}')
    assert found == [Unread(b'{"name":"a'), Unread(b'b"}\n'), "c"]


async def test_a_line_that_is_too_long_is_left_out_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "LONGEST_LINE", 10_000)
    content = b'{"name":"a"}\n{"name":"' + b"x" * 5_000_000 + b'"}\n{"name":"c"}\n'
    first, long, last = await results_of(tmp_path, content)
    assert (first, last) == ("a", "c")
    assert isinstance(long, Unread)
    assert long.is_too_long
    assert len(long.start) < 5_000


async def test_what_never_becomes_a_row_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part could be the last one: that is tried a few times only."""
    calls = list[int]()

    def counted(line: bytes) -> str:
        calls.append(len(line))
        return read(line)

    path = tmp_path / "0.jsonl"
    path.write_bytes(b'{"name":"a\n' + b"}\n" * 5_000)
    found = [each async for batch in Results([path], counted) for each in batch]
    assert all(isinstance(each, Unread) for each in found)
    assert sum(calls) < 5_000 * 1_000


@examples(200)
@given(
    st.lists(
        st.sampled_from([b"\n", b"{", b"}", b'"', b'{"name":"a"}', b"\\", b"\xff", b"\xef\xbb\xbf"])
        | st.binary(max_size=4),
        max_size=30,
    )
)
def test_whatever_stands_in_a_file_comes_to_an_end(parts: list[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(results_of(Path(folder), b"".join(parts)))
    assert all(isinstance(each, str | Unread) for each in found)


async def test_the_loop_turns_between_all_pieces(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    row = orjson.dumps({"name": "x" * 3000}) + b"\n"
    path.write_bytes(b"\n" * 5_000_000 + row * 2_000)
    loop, pieces = asyncio.get_running_loop(), 0
    turned = asyncio.Event()
    turned.set()
    async for batch in Results([path], read):
        assert turned.is_set(), "the loop did not turn since the last piece"
        turned.clear()
        loop.call_soon(turned.set)
        assert sum(map(len, batch)) < 2 * 2**20
        pieces += 1
    assert pieces > 20


def test_the_loop_goes_on_while_a_large_row_is_read() -> None:
    """Such a row is read only once the event loop has done something meanwhile."""
    moved, loops = threading.Event(), list[asyncio.AbstractEventLoop]()

    class Slow(FakeBatchAPI):
        def read(self, line: bytes) -> BatchRow:
            loops[0].call_soon_threadsafe(moved.set)
            assert moved.wait(30), "the loop stands still"
            moved.clear()
            return super().read(line)

    def large(prompt: str, job: int) -> str:
        return "y" * 2**19 + prompt

    async def main() -> list[str]:
        loops.append(asyncio.get_running_loop())
        provider = FakeProvider(FakeServer(fate=large))
        provider.batch = Slow(provider.fake)
        llm = LLM(provider, batch=Batch(quiet=0.02, poll=0.002), mode="batch")
        return await asyncio.gather(*(llm(f"{n}") for n in range(5)))

    assert [each[2**19 :] for each in asyncio.run(main())] == [f"{n}" for n in range(5)]


def test_the_bounds_leave_room_for_what_is_honest() -> None:
    bounds = bounds_for(50_000)
    assert bounds.size > 50_000 * 2**20
    assert bounds_for(1).size > result_files.LONGEST_LINE


async def test_rows_come_in_small_pieces_and_by_few_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = 0
    run = result_files.in_thread

    async def counted(*work: object) -> object:
        nonlocal threads
        threads += 1
        return await run(*work)  # type: ignore[arg-type]

    monkeypatch.setattr(result_files, "in_thread", counted)
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"".join(b'{"name":"%d"}\n' % n for n in range(5000)))
    pieces = [batch async for batch in Results([path], read)]
    assert [each for batch in pieces for each in batch] == [str(n) for n in range(5000)]
    assert max(map(len, pieces)) <= 100
    assert threads <= 10
