"""The error tree: one root, picklable, without secrets."""

from __future__ import annotations

import inspect
import pickle

import pytest

from llmflow import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_the_one_root_and_a_place_in_the_drawn_tree(kind: type) -> None:
    assert issubclass(kind, errors.LLMFlowError)
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__doc__


@pytest.mark.parametrize("kind", [k for k in KINDS if issubclass(k, errors.ProviderError)])
def test_every_provider_error_can_be_pickled_with_its_data(
    kind: type[errors.ProviderError],
) -> None:
    error = kind(
        "no",
        provider="p",
        model="m",
        status=400,
        code="c",
        request_id="r",
        retry_after=1.5,
        attempts=3,
    )
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is kind
    assert vars(restored) == vars(error)
    assert str(restored) == str(error)
    assert "p/m: no (HTTP 400, c, 3 attempts)" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdef1234567890.",
        "Authorization: Bearer abcdefghijklmnop",
        "key gsk_abcdefghijklmn is bad",
        "x AIzaSyabcdefghijklmn y",
    ],
)
def test_what_looks_like_a_key_is_masked(text: str) -> None:
    shown = errors.redact(text)
    assert "***" in shown
    assert "abcdef" not in shown


def test_a_known_secret_is_masked_in_any_form() -> None:
    assert errors.redact("the key is hunter2-hunter2!", "hunter2-hunter2") == "the key is ***!"


def test_masking_leaves_the_brackets_around_a_key() -> None:
    assert errors.redact("(i.e. Authorization: Bearer abcdefghijkl)") == (
        "(i.e. Authorization: Bearer ***)"
    )


def test_terminal_escapes_and_line_breaks_do_not_survive() -> None:
    shown = errors.redact("a\x1b[31m\nb\r\u202ec\x9b2J")
    assert shown == "a[31m bc2J"


def test_long_texts_are_cut() -> None:
    assert len(errors.redact("x" * 10_000)) == 500


def test_masking_is_not_fooled_by_ordinary_words() -> None:
    text = "max_tokens: key_phrases, the key-value pairs, sk-1 and task-force-blue are fine"
    assert errors.redact(text) == text


@pytest.mark.parametrize(
    ("message", "data", "shown"),
    [
        ("no credit", {}, "no credit. Add credit"),
        ("no credit.", {}, "no credit. Add credit"),
        ("no credit.", {"status": 429}, "no credit. (HTTP 429). Add credit"),
    ],
)
def test_the_remedy_is_a_sentence_of_its_own(
    message: str, data: dict[str, int], shown: str
) -> None:
    error = errors.BillingError(message, status=data.get("status"))
    assert str(error).startswith(shown)
