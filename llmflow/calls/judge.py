"""Judges answers by what is demanded of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmflow.errors import ConfigurationError, InvalidAnswerError
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.typed.output_type import OutputType

Validate: TypeAlias = Callable[[Response], Any]
"""Looks at an answer. It raises, or returns False, if that is not accepted."""

REASKS: Final = 1
"""How often a call is asked again whose answer is not accepted, if nobody says."""
_MOST_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Looks at the answers of calls. Made once for many of them.

    Args:
        validate: the user's function, or None.
        output: the type of the answer, or None; the function sees it as `Response.parsed`.
        reasks: how often a call is asked again at most.
    """

    validate: Validate | None = None
    output: OutputType | None = None
    reasks: int = REASKS

    def look(self, response: Response) -> Response:
        """Return an accepted answer, with its value.

        Raises:
            InvalidAnswerError: it is not accepted; its `response` is the answer as it came.
        """
        if response.finish_reason == "length":
            raise InvalidAnswerError("it was cut off at max_tokens", response=response)
        found = response if self.output is None else self._valued(self.output, response)
        if self.validate is None:
            return found
        try:
            accepted = self.validate(found)
        except Exception as error:
            text = str(error)[:_MOST_CHARACTERS] or type(error).__name__
            raise InvalidAnswerError(text, response=response, cause=error) from error
        if accepted is False:
            raise InvalidAnswerError("it is not what was asked for", response=response)
        return found

    def _valued(self, output: OutputType, response: Response) -> Response:
        try:
            value = output.parse(response.text)
        except Exception as error:  # a validator of the user's may raise anything
            text = str(error)[:_MOST_CHARACTERS]
            if not isinstance(error, ValueError) or not text:
                text = f"{type(error).__name__}: {text}"
            raise InvalidAnswerError(text, response=response, cause=error) from error
        return response.with_parsed(value)


def checked_validate(function: Any) -> Validate | None:
    """Return what looks at answers.

    Raises:
        ConfigurationError: it cannot be called.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(
            "validate must be a function of a Response that raises, or returns False, for what is "
            f"not accepted; got {function!r}"
        )
    return None if function is None else function


def checked_reasks(value: Any) -> int:
    """Return how often a call is asked again.

    Raises:
        ConfigurationError: it is no whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            "reasks counts how often a wrong answer is asked again, and must be a whole number of "
            f"at least 0; got {value!r}"
        )
    return value
