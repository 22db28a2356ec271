"""Upper estimate of a call's cost, for reserving budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmflow.budget.value import Estimate
from llmflow.pricing import Price
from llmflow.tokens import estimate_tokens
from llmflow.types import Charge, Request, Usage

if TYPE_CHECKING:
    from llmflow.parts import Wanted
    from llmflow.typed.methods import OutputMethods

DEFAULT_OUTPUT: Final = 1024
"""Tokens of an answer that are expected while nothing is known."""

_BOUNDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# What is sent with the prompt and counted with it.
_ALSO_SENT: Final = ("tools", "functions", "response_format")
_PER_MESSAGE: Final = 4
_PER_PICTURE: Final = 1600  # the most that Anthropic and OpenAI count for one of usual size


class OutputForecast:
    """Forecast of answer lengths: a high quantile of the last few hundred.

    49 of 50 answers are at most that long, so that the reserves of many calls together
    are almost never below what they settle.

    >>> forecast = OutputForecast(most=32_768)
    >>> forecast.tokens
    1024
    >>> for length in range(100):
    ...     forecast.observe(length)
    >>> forecast.tokens
    98

    Args:
        most: the longest answer that the model gives, in tokens, where that is known.
    """

    _KEEP: Final = 512
    _ENOUGH: Final = 20
    _QUANTILE: Final = 0.98

    def __init__(self, *, most: int | None = None) -> None:
        self._most = most
        self._recent: list[int] = []
        self._seen = 0
        self._longest = 0
        self._quantile: int | None = None
        self._fresh = 0

    @property
    def tokens(self) -> int:
        """The tokens to expect of the next answer.

        1,024 at first, or twice the longest answer that there was.
        """
        if self._quantile is None or self._fresh:
            self._learn()
        expected = self._quantile
        if expected is None:
            expected = max(DEFAULT_OUTPUT, 2 * self._longest)
        return expected if self._most is None else min(expected, self._most)

    def observe(self, output_tokens: int) -> None:
        """Learn from an answer; one without tokens says nothing."""
        if output_tokens <= 0:
            return
        # A thread that loses a race loses an observation, never the list.
        recent = self._recent
        if len(recent) < self._KEEP:
            recent.append(output_tokens)
        else:
            recent[self._seen % self._KEEP] = output_tokens
        self._seen += 1
        self._fresh += 1
        if output_tokens > self._longest:
            self._longest = output_tokens

    def _learn(self) -> None:
        size = len(self._recent)
        # Sorting anew for every answer would cost more than the rest of a call's accounting.
        due = self._quantile is None or self._fresh * 16 >= size
        if size >= self._ENOUGH and due:
            self._fresh = 0
            ordered = sorted(self._recent)
            self._quantile = ordered[min(size - 1, int(size * self._QUANTILE))]


class PromptForecast:
    """Correction of prompt estimates, learned from answers, by length.

    Before an answer has told anything, somewhat more is expected: of many first calls at once,
    none knows better.

    >>> forecast = PromptForecast()
    >>> forecast.tokens(80)
    94.0
    >>> forecast.observe(100, 103)
    >>> forecast.tokens(90), forecast.tokens(1000)
    (92.7, 1129.0)
    """

    _MORE: Final = 1.125
    _MORE_TOKENS: Final = 4.0

    def __init__(self) -> None:
        # By powers of two: what surrounds a short prompt is nothing beside a long one.
        self._factors: dict[int, float] = {}

    def tokens(self, estimated: float) -> float:
        """Return the tokens to expect of a prompt."""
        factor = self._factors.get(int(estimated).bit_length())
        if factor is None:
            return estimated * self._MORE + self._MORE_TOKENS
        return estimated * factor

    def observe(self, estimated: float, actual: float) -> None:
        """Learn from what an answer says of its prompt."""
        if estimated > 0.0 and actual > 0.0:
            size, factor = int(estimated).bit_length(), max(1.0, actual / estimated)
            if factor > self._factors.get(size, 0.0):
                self._factors[size] = factor


def estimate(
    request: Request,
    price: Price | None,
    *,
    charge: Charge | None = None,
    expected_output: float = DEFAULT_OUTPUT,
    batch: bool = False,
    prompt: float | None = None,
) -> Estimate:
    """Return what a call may come to.

    >>> request = Request(model="m", messages=({"role": "user", "content": "Hi"},), max_tokens=100)
    >>> estimate(request, Price(input=1, output=10))
    Estimate(usd=0.001005, tokens=105.0, requests=1.0)

    An answer is taken to come to the request's bound, else to what the provider reserves if
    that is less than `expected_output`; a prompt to the most of what the provider reserves and
    of `prompt`, where it has been counted. Without a price no dollars are reserved, see
    `Budget.check_price`.
    """
    prompt = float(prompt_tokens(request)) if prompt is None else prompt
    bound = bound_of(request)[1]
    output = float(bound or 0)
    if bound is None:
        output = expected_output
        if charge is not None and 0 < charge.output_tokens < output:
            output = charge.output_tokens
    if charge is not None and charge.input_tokens > prompt:
        prompt = charge.input_tokens
    choices = request.options.get("n")
    if isinstance(choices, int) and choices > 1:
        output *= choices
    usd = 0.0
    if price is not None:
        whole = math.ceil(prompt)
        # Whether a provider puts a prompt into its cache is seen only afterwards.
        dearer = price.cache_write is not None and price.cache_write > price.input
        usage = Usage(
            input_tokens=whole,
            output_tokens=int(output),
            cache_write_tokens=whole if dearer else 0,
        )
        usd = price.cost(usage, batch=batch)
    return Estimate(usd, prompt + output, 1.0)


def bound_of(request: Request) -> tuple[str | None, int | None]:
    """Return the option that bounds a request's answer, and its tokens.

    >>> bound_of(Request(model="m", messages=(), options={"max_completion_tokens": 50}))
    ('max_completion_tokens', 50)
    """
    if request.max_tokens:
        return None, request.max_tokens
    for name in _BOUNDS if request.options else ():
        value = request.options.get(name)
        if isinstance(value, int) and value > 0:
            return name, value
    return None, None


def prompt_tokens(request: Request, outputs: OutputMethods | None = None) -> int:
    """Return about how many tokens a prompt has, rather too many.

    An image or document counts as an image of usual size. `outputs` are the provider's ways to
    be sent a schema, if it has them.
    """
    tokens = estimate_tokens(request.system) if request.system else 0
    for message in request.messages:
        content = message.get("content")
        tokens += _PER_MESSAGE
        if isinstance(content, str):
            tokens += estimate_tokens(content)
        elif isinstance(content, list | tuple):
            tokens += sum(_part_tokens(content))
    if request.wanted:
        output = request.output
        if outputs is None or output is None:
            tokens += _wanted_tokens(request.wanted)
        else:
            tokens += outputs.chosen(output).tokens
            tokens += _wanted_tokens(tuple(each for each in request.wanted if each is not output))
    if request.options:
        for name in _ALSO_SENT:
            if name in request.options:
                tokens += estimate_tokens(repr(request.options[name]))
    return tokens


@functools.lru_cache(maxsize=128)
def _wanted_tokens(wanted: tuple[Wanted, ...]) -> int:
    return estimate_tokens(repr(wanted)) if wanted else 0


def _part_tokens(parts: list[Any] | tuple[Any, ...]) -> Iterator[int]:
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else getattr(part, "text", part)
        yield estimate_tokens(text) if isinstance(text, str) else _PER_PICTURE
