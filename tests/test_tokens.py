"""Token counts and estimates, without a network."""

# ruff: noqa: RUF001 - the samples are in other scripts on purpose

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import tokens
from llmflow.tokens import (
    TokenEstimator,
    count_tokens,
    encoding_name,
    encoding_status,
    estimate_tokens,
)

ENGLISH = "The tide came in slowly, as it does on flat shores, and the boats stood up again. " * 8
SAMPLES = {
    "English": ENGLISH,
    "code": Path(tokens.__file__).read_text(encoding="utf-8"),
    "JSON": json.dumps([{"id": i * 7919, "price": i / 7, "tags": ["a", "b"]} for i in range(60)]),
    "Chinese": "自然语言处理是人工智能领域中的一个重要方向，研究人与计算机之间的通信。" * 9,
    "Russian": "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему. " * 6,
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। " * 6,
}

has_vocabulary = pytest.mark.skipif(
    tokens._find("o200k_base") is None, reason="no package here carries the vocabulary"
)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nothing loaded."""
    monkeypatch.setattr(tokens, "_loaded", {})
    monkeypatch.setattr(tokens, "_known_to_tiktoken", dict)


@pytest.fixture
def bare(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without any vocabulary, where a download would be an error."""
    monkeypatch.setattr(tokens, "_CARRIERS", ())
    monkeypatch.setattr(tokens.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)

    def refuse(blobpath: str) -> bytes:
        pytest.fail(f"a download of {blobpath} was tried")

    monkeypatch.setattr("tiktoken.load.read_file", refuse)


class TestEstimateTokens:
    @given(st.text())
    def test_is_above_zero_for_every_text_but_the_empty_one(self, text: str) -> None:
        assert (estimate_tokens(text) > 0) == bool(text)

    @given(st.text(min_size=1, max_size=2000))
    def test_grows_when_a_text_is_repeated(self, text: str) -> None:
        assert estimate_tokens(text * 4) >= estimate_tokens(text)

    @given(st.text(alphabet=st.characters(max_codepoint=127), min_size=1))
    def test_stays_between_the_extremes_of_bytes_per_token(self, text: str) -> None:
        assert len(text) / 4 <= estimate_tokens(text) <= len(text) / 2.2 + 1

    def test_takes_lone_surrogates(self) -> None:
        assert estimate_tokens("\ud83d") == 1

    @has_vocabulary
    @pytest.mark.parametrize("kind", SAMPLES)
    def test_is_within_a_factor_of_two_of_the_count(self, kind: str) -> None:
        counted = count_tokens(SAMPLES[kind])
        assert counted / 2 <= estimate_tokens(SAMPLES[kind]) <= counted * 2

    @has_vocabulary
    @pytest.mark.parametrize("kind", ["English", "code", "JSON"])
    def test_is_within_a_quarter_where_it_matters_most(self, kind: str) -> None:
        assert estimate_tokens(SAMPLES[kind]) == pytest.approx(
            count_tokens(SAMPLES[kind]), rel=0.25
        )


class TestCountTokens:
    @has_vocabulary
    def test_counts_with_the_models_own_vocabulary(self) -> None:
        assert count_tokens("hello world", "openai/gpt-4o") == 2

    @has_vocabulary
    def test_counts_special_tokens_as_text(self) -> None:
        assert count_tokens("<|endoftext|>") > 1

    def test_estimates_for_a_model_whose_vocabulary_is_not_public(self) -> None:
        assert count_tokens(ENGLISH, "claude-sonnet-4-5") == estimate_tokens(ENGLISH)

    def test_estimates_and_downloads_nothing_without_a_file(self, bare: None) -> None:
        assert count_tokens(ENGLISH) == estimate_tokens(ENGLISH)

    def test_takes_a_damaged_file_for_absent_and_leaves_it(
        self, bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "fb374d419588a4632f3f557e76b4b70aebbca790"
        file.write_bytes(b"broken")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        assert count_tokens(ENGLISH) == estimate_tokens(ENGLISH)
        assert file.read_bytes() == b"broken"

    @has_vocabulary
    @pytest.mark.parametrize("before", [None, "/somewhere/else"])
    def test_leaves_the_environment_as_it_was(
        self, fresh: None, monkeypatch: pytest.MonkeyPatch, before: str | None
    ) -> None:
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        if before:
            monkeypatch.setenv("TIKTOKEN_CACHE_DIR", before)
        count_tokens("hello")
        assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


class TestEncodings:
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("gpt-4o", "o200k_base"),
            ("openai/gpt-4.1-mini", "o200k_base"),
            ("openrouter/openai/gpt-3.5-turbo", "cl100k_base"),
            ("gpt-9-turbo", "o200k_base"),
            ("o7-mini", "o200k_base"),
            ("anthropic/claude-sonnet-4-5", None),
            ("gemini-2.5-flash", None),
            ("olmo-2", None),
        ],
    )
    def test_follow_from_the_models_name(self, model: str, name: str | None) -> None:
        assert encoding_name(model) == name

    def test_status_says_when_there_is_no_file(self, bare: None) -> None:
        assert encoding_status("gpt-4o").startswith("estimate: no file of o200k_base at hand")

    def test_status_says_when_the_vocabulary_is_not_public(self) -> None:
        assert encoding_status("claude-x") == "estimate: the vocabulary of claude-x is not public"

    @has_vocabulary
    def test_status_says_where_the_file_is_from_and_when_it_is_loaded(self, fresh: None) -> None:
        assert encoding_status("gpt-4o").startswith("tiktoken o200k_base (from ")
        count_tokens("hello")
        assert encoding_status("gpt-4o") == "tiktoken o200k_base (loaded)"

    def test_are_found_without_importing_the_packages_that_carry_them(self) -> None:
        code = (
            "import sys, llmflow.tokens as t\n"
            "assert 'tiktoken' not in sys.modules\n"
            "t.encoding_status('gpt-4o'); t.count_tokens('hello')\n"
            "assert not {'litellm', 'llama_index'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestTokenEstimator:
    def test_learns_the_ratio_from_answers(self) -> None:
        estimator = TokenEstimator("claude-x")
        for _ in range(50):
            guess = estimator.estimate(ENGLISH)
            estimator.observe(guess, 2 * guess.base)
        assert estimator.ratio == pytest.approx(2.0, rel=0.01)
        assert estimator.estimate(ENGLISH) == pytest.approx(2 * estimate_tokens(ENGLISH), rel=0.01)

    def test_does_not_overshoot_when_many_old_estimates_come_back(self) -> None:
        estimator = TokenEstimator("claude-x")
        guesses = [estimator.estimate(ENGLISH) for _ in range(200)]
        for guess in guesses:
            estimator.observe(guess, 2 * guess.base)
        assert estimator.ratio <= 2.0

    def test_takes_a_plain_number_as_an_estimate_of_its_own(self) -> None:
        estimator = TokenEstimator("claude-x")
        estimator.observe(100, 200)
        estimator.observe(int(100 * estimator.ratio), 200)
        assert 1.5 < estimator.ratio < 2.0

    @pytest.mark.parametrize(("actual", "bound"), [(10**9, 4.0), (1, 0.25)])
    def test_keeps_the_ratio_in_bounds(self, actual: int, bound: float) -> None:
        estimator = TokenEstimator("claude-x")
        for _ in range(200):
            estimator.observe(estimator.estimate(ENGLISH), actual)
        assert estimator.ratio == bound

    def test_ignores_answers_without_a_count(self) -> None:
        estimator = TokenEstimator("claude-x")
        estimator.observe(100, 0)
        estimator.observe(0, 100)
        assert estimator.ratio == 1.0

    def test_adds_up_several_texts(self) -> None:
        guess = TokenEstimator("claude-x").estimate(ENGLISH, "", "Hello")
        assert guess == guess.base == estimate_tokens(ENGLISH) + estimate_tokens("Hello")

    def test_never_says_zero_for_a_text(self) -> None:
        estimator = TokenEstimator("claude-x")
        for _ in range(200):
            estimator.observe(1000, 1)
        assert estimator.estimate("a") == 1
        assert estimator.estimate("") == 0
