"""Values that a JSON schema allows, others for each text."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from llmflow.simulator.schema_value import Filler, bounds_of, fits_type

_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_MOST_STEPS: Final = 9
_MOST_ITEMS: Final = 3
_OPEN_TEXT: Final = ("pattern", "format", "minLength", "maxLength", "enum", "const", "anyOf")


class VariedFiller(Filler):
    """Chooses what the text names, and other values by chance.

    The same text has the same values.

    >>> from llmflow.simulator.schema_value import fill_schema
    >>> fill_schema({"enum": ["good", "bad"]}, "A bad day.", VariedFiller)
    'bad'
    """

    def __init__(self, root: Mapping[str, Any], text: str) -> None:
        super().__init__(root, text)
        self._chance = random.Random(text)

    def choice(self, options: list[Any]) -> Any:
        """Return the value that the text names most often, else any."""
        text = self.text.lower()
        counts = [text.count(one.lower()) if isinstance(one, str) and one else 0 for one in options]
        other = self._chance.randrange(len(options))
        return options[counts.index(max(counts))] if any(counts) else options[other]

    def flag(self) -> bool:
        """Return a truth value."""
        return self._chance.random() < 0.5

    def number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        """Return a number in range, not far from 0."""
        nearest = super().number(schema, whole=whole)
        factor = schema.get("multipleOf")
        step: Any = factor if isinstance(factor, (int, float)) and factor > 0 else 1
        low, high = bounds_of(schema, 1e-9)
        if not whole and factor is None:
            step = min(0.1, (high - low) / 10) if high - low < 1 else 0.1
        steps = self._chance.randint(0, _MOST_STEPS * (1 if whole or factor else 10))
        rises = high - nearest >= nearest - low
        found = nearest + steps * step * (1 if rises else -1)
        found = found if whole else round(found, 6)
        # A narrow range has fewer steps.
        while steps and not low <= found <= high:
            steps //= 2
            found = nearest + steps * step * (1 if rises else -1)
        return found if fits_type(found, {**schema, "type": "number"}) else nearest

    def items(self, least: int, most: int) -> int:
        """Return how many items a list has that may have more."""
        return min(max(least, self._chance.randint(1, _MOST_ITEMS)), most)

    def item(self, schema: Mapping[str, Any], number: int) -> Any:
        """Return a frequent word of the text for a list of texts."""
        if schema.get("type") != "string" or any(word in schema for word in _OPEN_TEXT):
            return None
        words = [word for word, _ in Counter(_WORD.findall(self.text.lower())).most_common(9)]
        return words[number] if number < len(words) else None
