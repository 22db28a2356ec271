"""A download is decompressed in small pieces, and never above its bounds."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

import aiohttp
import pytest

from llmflow.errors import BadReplyError, ResultsTooLargeError
from llmflow.provider import FileBounds
from llmflow.transport.failures import TooLargeError
from llmflow.transport.streams import Intake

URL = "https://key@host.example/v1/files/x/content"
CONTENT = b"".join(b"line %d\n" % n for n in range(50_000))


def intake(encoding: str = "", bounds: FileBounds | None = None) -> Intake:
    return Intake({"content-encoding": encoding} if encoding else {}, URL, bounds)


def taken(intake: Intake, data: bytes, step: int) -> bytes:
    made = b"".join(
        each for at in range(0, len(data), step) for each in intake.take(data[at : at + step])
    )
    intake.end()
    return made


def raw_deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


FORMS = [
    ("", CONTENT),
    ("identity", CONTENT),
    ("gzip", gzip.compress(CONTENT)),
    ("X-GZIP", gzip.compress(CONTENT)),
    ("gzip", gzip.compress(CONTENT[:100]) + gzip.compress(CONTENT[100:])),
    ("gzip", gzip.compress(b"") * 3 + gzip.compress(CONTENT)),
    ("deflate", zlib.compress(CONTENT)),
    ("deflate", raw_deflated(CONTENT)),
]


@pytest.mark.parametrize("step", [1, 1000, 10**9])
@pytest.mark.parametrize(("encoding", "data"), FORMS)
def test_every_form_comes_to_the_same(encoding: str, data: bytes, step: int) -> None:
    assert taken(intake(encoding), data, step) == CONTENT


@pytest.mark.parametrize("size", [2**20 - 1, 2**20, 2**20 + 1, 2**22])
def test_pieces_are_small_and_nothing_is_left_behind(size: int) -> None:
    pieces = list(intake("gzip").take(gzip.compress(b"a" * size)))
    assert sum(map(len, pieces)) == size
    assert max(map(len, pieces)) <= 2**20


def bomb(content: bytes, mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    made: Iterable[bytes] = (packer.compress(content * 2**20) for _ in range(mebibytes))
    return b"".join(made) + packer.flush()


def test_a_bomb_goes_off_at_the_bound_and_not_later() -> None:
    data = bomb(b"x", 64)
    assert len(data) < 2**17
    sizes = list[int]()
    pieces = intake("gzip", FileBounds(2**21, 10**9)).take(data)
    with pytest.raises(ResultsTooLargeError, match="more than 2,097,152 bytes"):
        sizes.extend(map(len, pieces))
    assert sum(sizes) <= 2**21


def test_blank_lines_count() -> None:
    bounds = FileBounds(10**9, 1000)
    with pytest.raises(ResultsTooLargeError, match="more than 1,000 lines"):
        taken(intake("gzip", bounds), bomb(b"\n", 1), 10**9)
    with pytest.raises(ResultsTooLargeError, match="more than 1,000 lines"):
        taken(intake("", bounds), b"\n" * 1001, 100)
    assert taken(intake("", bounds), b"\n" * 1000, 100)


def test_what_is_sent_is_bounded_before_it_is_decompressed() -> None:
    """Members of nothing make no output, however many they are."""
    nothing = gzip.compress(b"") * 1000
    with pytest.raises(ResultsTooLargeError):
        taken(intake("gzip", FileBounds(10_000, 10)), nothing, 100)


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_a_compressed_body_that_is_cut_off_is_a_broken_connection(cut: int) -> None:
    with pytest.raises(aiohttp.ClientPayloadError, match="cut off"):
        taken(intake("gzip"), gzip.compress(CONTENT)[:-cut], 1000)


def test_what_is_not_compressed_as_it_says_is_a_broken_connection() -> None:
    with pytest.raises(aiohttp.ClientPayloadError, match="cannot be decompressed"):
        taken(intake("gzip"), CONTENT, 1000)


def test_another_compression_is_named_and_no_key() -> None:
    with pytest.raises(BadReplyError, match=r"host.example: .* compressed as 'zstd'") as e:
        intake("zstd")
    assert "key@" not in str(e.value)


def test_an_error_that_is_compressed_is_bounded_too() -> None:
    assert intake("gzip").whole(gzip.compress(b"no such file"), 100) == b"no such file"
    with pytest.raises(TooLargeError):
        intake("gzip").whole(bomb(b"x", 4), 2**20)
