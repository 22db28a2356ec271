"""Counts a text's tokens, or estimates them without its vocabulary.

Nothing is ever downloaded. tiktoken would fetch a vocabulary at its first use, so
it is asked only when the file is there already: in its own cache, or in a package
that carries it (litellm, llama-index).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    import tiktoken

_BLOB: Final = "https://openaipublic.blob.core.windows.net/encodings/"
_FILES: Final = {
    # Encoding: the file it is made from, and that file's SHA-256. tiktoken deletes a
    # file with another hash and downloads it, so a wrong one must count as absent.
    "r50k_base": ("r50k", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"),
    "p50k_base": ("p50k", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"),
    "p50k_edit": ("p50k", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"),
    "cl100k_base": ("cl100k", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
    "o200k_base": ("o200k", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
    "o200k_harmony": ("o200k", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
}
_CARRIERS: Final = (
    ("litellm", "litellm_core_utils/tokenizers"),
    ("llama_index", "core/_static/tiktoken_cache"),
)
_OPENAI: Final = re.compile(r"(?:ft:)?(?:chatgpt|gpt|codex|computer-use|text-embedding|o\d)\b")

_lock = threading.Lock()
_loaded: dict[str, tiktoken.Encoding | None] = {}
"""Encodings by name; None where the file was not at hand."""

# The estimate. Measured with o200k_base: 4.5 bytes a token in English prose and in
# code, 2.0 to 2.3 in JSON, logs and columns of numbers, where much of the text is
# of the characters below; 3 to 3.6 characters a token in two-byte and Indic
# scripts, 1.1 to 1.7 in Chinese, Japanese and Korean.
_DENSE: Final = b'"{}[]:,0123456789'
_SAMPLE: Final = 512
_ASCII: Final = bytes(range(0x80))
_TAILS: Final = bytes(range(0x80, 0xC0))
_TWO_BYTES: Final = bytes(range(0xC0, 0xE0))
_INDIC: Final = b"\xe0\xe1\xe2"
_EAST_ASIAN: Final = bytes(range(0xE3, 0xF0))


def estimate_tokens(text: str) -> int:
    """Estimate a text's tokens from its bytes and script, without a vocabulary.

    Quick enough for every request, and within a factor of two for prose, code,
    JSON and the larger scripts. What is left is learnt by `TokenEstimator`.

    >>> estimate_tokens("The tide came in slowly, as it does on flat shores.")
    13
    """
    size = len(text)
    if not size:
        return 0
    if size <= _SAMPLE:
        sample = text
    else:
        half, middle = _SAMPLE // 2, size // 2
        sample = text[:half] + text[middle : middle + half]
    raw = sample.encode("utf-8", "replace")
    dense = len(raw) - len(raw.translate(None, _DENSE))
    per_token = min(4.0, max(2.2, 4.3 - 6.0 * dense / len(raw)))
    tokens = len(raw) / per_token if sample.isascii() else _by_script(raw, per_token)
    if sample is not text:
        tokens *= size / len(sample)
    return int(tokens) + 1


def _by_script(raw: bytes, per_token: float) -> float:
    """Weigh the characters of UTF-8 bytes by script; a first byte tells which."""
    left, tokens = raw, 0.0
    for group, weight in (
        (_ASCII, 1.0 / per_token),
        (_TAILS, 0.0),
        (_TWO_BYTES, 1.0 / 2.8),
        (_INDIC, 1.0 / 2.8),
        (_EAST_ASIAN, 1.0 / 1.4),
    ):
        rest = left.translate(None, group)
        tokens += weight * (len(left) - len(rest))
        left = rest
    return tokens + len(left)


def count_tokens(text: str, model: str = "gpt-6-luna") -> int:
    """Count a text's tokens, or estimate them without the vocabulary.

    The first count loads the vocabulary, which takes up to half a second: not for an event
    loop.

    Args:
        text: any text; what looks like a special token is counted as text.
        model: a model's name, with or without a provider before it.

    """
    name = encoding_name(model)
    encoding = _load(name) if name else None
    return estimate_tokens(text) if encoding is None else len(encoding.encode_ordinary(text))


def encoding_name(model: str) -> str | None:
    """Return a model's vocabulary, or None if it is not public.

    >>> encoding_name("openai/gpt-6-luna"), encoding_name("anthropic/claude-sonnet-5-5")
    ('o200k_base', None)
    """
    from tiktoken.model import encoding_name_for_model

    bare = model.rsplit("/", 1)[-1]
    try:
        return encoding_name_for_model(bare)
    except KeyError:
        # Models that are newer than the installed table: OpenAI's have not changed
        # their vocabulary since 2024.
        return "o200k_base" if _OPENAI.match(bare) else None


def encoding_status(model: str) -> str:
    """Say in one line how tokens of a model are counted here."""
    name = encoding_name(model)
    if name is None:
        return f"estimate: the vocabulary of {model} is not public"
    if _loaded.get(name) is not None or name in _known_to_tiktoken():
        return f"tiktoken {name} (loaded)"
    place = _find(name)
    if place is None:
        return (
            f"estimate: no file of {name} at hand; "
            "TIKTOKEN_CACHE_DIR can name a folder that tiktoken has filled"
        )
    return f"tiktoken {name} (from {place.owner})"


class _Place(NamedTuple):
    folder: Path
    owner: str


def _places() -> Iterator[_Place]:
    """Yield where a vocabulary file may be, tiktoken's own places first."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if os.environ.get(variable):
            yield _Place(Path(os.environ[variable]), variable)
    yield _Place(Path(tempfile.gettempdir(), "data-gym-cache"), "tiktoken's cache")
    for package, inside in _CARRIERS:
        try:
            # A top-level name: finding it imports nothing (litellm takes seconds).
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            yield _Place(Path(folder, inside), package)


def _find(name: str) -> _Place | None:
    """Return where an encoding's file is, whole and unchanged."""
    if name not in _FILES:
        return None
    stem, digest = _FILES[name]
    url = f"{_BLOB}{stem}_base.tiktoken".encode()
    # The name that tiktoken gives to a cached file; nothing secret is hashed.
    file = hashlib.sha1(url, usedforsecurity=False).hexdigest()
    for place in _places():
        try:
            data = (place.folder / file).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            return place
    return None


def _known_to_tiktoken() -> dict[str, tiktoken.Encoding]:
    """Return what the process has loaded through tiktoken itself."""
    registry = sys.modules.get("tiktoken.registry")
    return cast("dict[str, tiktoken.Encoding]", getattr(registry, "ENCODINGS", {}))


def _load(name: str) -> tiktoken.Encoding | None:
    """Return an encoding, or None where its file is not at hand. Tried once per process."""
    if name in _loaded:
        return _loaded[name]
    with _lock:
        if name not in _loaded:
            _loaded[name] = _known_to_tiktoken().get(name) or _load_from_file(name)
        return _loaded[name]


def _load_from_file(name: str) -> tiktoken.Encoding | None:
    place = _find(name)
    if place is None:
        return None
    import tiktoken

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(place.folder)
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError):
        return None
    finally:
        if before is None:
            os.environ.pop("TIKTOKEN_CACHE_DIR", None)
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


class Estimate(int):
    """A number of tokens that remembers what it was before the correction.

    Hundreds of requests may be in flight with an older correction. Judged by the
    present one, each of their answers would push it further the same way.
    """

    base: int


class TokenEstimator:
    """Estimates a model's tokens, and learns from real charges.

    The estimate from bytes is multiplied by a ratio that follows the provider's own
    counts: the last few dozen answers weigh most, long texts more than short ones.

    >>> estimator = TokenEstimator("openai/gpt-6-luna")
    >>> guess = estimator.estimate("The tide came in slowly.")
    >>> estimator.observe(guess, 6)

    Args:
        model: a model's name, with or without a provider before it.

    """

    RATIO_MIN: Final = 0.25
    RATIO_MAX: Final = 4.0
    _KEEP: Final = 0.95
    _PRIOR: Final = 20.0

    def __init__(self, model: str) -> None:
        self.model = model
        # Estimated and actual tokens, decaying. One tuple, replaced at once: a
        # thread that loses a race loses an observation, never the balance.
        self._sums = (self._PRIOR, self._PRIOR)
        self._ratio = 1.0

    @property
    def ratio(self) -> float:
        """Actual tokens per estimated one, between 0.25 and 4."""
        return self._ratio

    def estimate(self, *texts: str) -> Estimate:
        """Estimate the tokens of all texts; 0 only for none."""
        base = 0
        for text in texts:
            base += estimate_tokens(text)
        guess = Estimate(base * self._ratio + 0.5)
        if base and not guess:
            guess = Estimate(1)
        guess.base = base
        return guess

    def observe(self, estimated: int, actual: int) -> None:
        """Learn from an answer.

        Args:
            estimated: what `estimate` returned, or a plain number that the present
                ratio is part of.
            actual: the tokens that the provider counted for the same texts.

        """
        base = estimated.base if isinstance(estimated, Estimate) else estimated / self._ratio
        if base <= 0 or actual <= 0:
            return
        old_base, old_actual = self._sums
        self._sums = sums = (old_base * self._KEEP + base, old_actual * self._KEEP + actual)
        self._ratio = min(self.RATIO_MAX, max(self.RATIO_MIN, sums[1] / sums[0]))

    def __repr__(self) -> str:
        return f"TokenEstimator({self.model!r}, ratio={self._ratio:.2f})"
