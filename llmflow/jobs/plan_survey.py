"""Survey of the rows for a plan: one pass, in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llmflow.calls.key import canonical, server_of
from llmflow.errors import InputError, redact
from llmflow.jobs.plan_tokens import (
    PER_CHAT,
    PER_MESSAGE,
    Pairs,
    Question,
    TokenSample,
    spread,
)
from llmflow.jobs.plan_values import Span
from llmflow.journal.asked import Asked
from llmflow.journal.keys import fingerprint
from llmflow.rows import LeftOut
from llmflow.tokens import count_tokens, encoding_status, estimate_tokens
from llmflow.types import Request

if TYPE_CHECKING:
    from llmflow.journal.lookup import Lookup
    from llmflow.llm import LLM
    from llmflow.mapping.prompts import MakePrompt

_MOST_BYTES: Final = 4  # of one character; a token has at least one


@dataclass(slots=True)
class Group:
    """Items and what they amount to.

    Args:
        items: how many.
        size: characters of those whose tokens may be estimated.
        counted: tokens of those, as far as they were counted.
        certain: tokens of the other ones, which were all counted.
        reserved: what a provider charges on arrival, summed up.
    """

    items: int = 0
    size: int = 0
    counted: int = 0
    certain: int = 0
    reserved: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])

    @classmethod
    def together(cls, groups: Iterable[Group]) -> Group:
        """Return all groups as one."""
        whole = cls()
        for group in groups:
            whole.items += group.items
            whole.size += group.size
            whole.counted += group.counted
            whole.certain += group.certain
            whole.add_charge(group.reserved)
        return whole

    def add(self, question: Question, tokens: int, *, large: bool, sign: int = 1) -> None:
        """Add an item; with -1 as the sign, take it out."""
        self.items += sign
        self.certain += sign * (question.beside + (tokens if large else 0))
        if not large:
            self.size += sign * len(question.text)
            self.counted += sign * tokens

    def add_charge(self, charge: Iterable[float]) -> None:
        """Add what one item is charged on arrival."""
        for unit, value in enumerate(charge):
            self.reserved[unit] += value


@dataclass(slots=True)
class Counts:
    """Counts of rows by what became of them.

    Args:
        items: rows.
        unusable: those that no prompt can be made of.
        first_unusable: the first one's index, and what is wrong with it.
        empty: those with nothing in their prompt fields.
        first_empty: the first one's index.
        too_long: those with more tokens than the model takes.
        first_too_long: the first one's index.
        answered: those that the run has an answer to.
        failed_before: those that failed for good in it.
        repeated: those that ask what an earlier row asks, word for word.
    """

    items: int = 0
    unusable: int = 0
    first_unusable: tuple[int, str] | None = None
    empty: int = 0
    first_empty: int | None = None
    too_long: int = 0
    first_too_long: int | None = None
    answered: int = 0
    failed_before: int = 0
    repeated: int = 0

    def note_unusable(self, index: int, reason: str) -> None:
        """Count a row that no prompt can be made of."""
        self.unusable += 1
        if self.first_unusable is None:
            self.first_unusable = (index, redact(reason))

    def note_empty(self, index: int) -> None:
        """Count a row with nothing in its prompt fields."""
        self.empty += 1
        if self.first_empty is None:
            self.first_empty = index


class Survey:
    """Counts what the rows ask, in one pass.

    Args:
        llm: who would be asked; nothing is sent, and no key is needed.
        make_prompt: makes a prompt of a row and its index, or says why it is left out.
        is_empty: whether a row has nothing to ask about, by the row and its prompt.
        lookup: the run's journal; None where there is none.
        tiers: tokens above which a prompt has another price.
        max_input_tokens: the most that the model takes; None where that is not known.
        retry_failed: whether what failed before is asked again.
        cache: whether equal questions have one answer.
        exact: whether the tokens of all rows are counted, however many.
        keep: how many prompts to keep for a sample.
        charges: whether what the provider charges on arrival is wanted.
    """

    def __init__(
        self,
        llm: LLM,
        make_prompt: MakePrompt,
        *,
        is_empty: Callable[[Any, Any], bool] = lambda row, prompt: False,  # noqa: ARG005
        lookup: Lookup | None = None,
        tiers: tuple[int, ...] = (),
        max_input_tokens: int | None = None,
        retry_failed: bool = False,
        cache: bool = False,
        exact: bool = False,
        keep: int = 0,
        charges: bool = False,
    ) -> None:
        self.counts = Counts()
        self.every = Group()
        """All items that can be asked."""
        self.known = Group()
        """Those that are answered."""
        self.inputs = Pairs()
        """Of prompts that were answered: tokens as counted here, and by the provider."""
        self.outputs = Pairs()
        """Of answers: 1, and their tokens."""
        self.left = [Group() for _ in range(len(tiers) + 1)]
        """Those that are left to ask, by the tier of their price."""
        self._llm, self._provider = llm, llm.provider
        self._make_prompt, self._is_empty = make_prompt, is_empty
        # As `llmflow.calls.session.Session` has it, without the call that it would be.
        provider = llm.provider
        self._asks = {
            "provider": provider.name,
            "endpoint": server_of(provider),
            "model": provider.model,
        }
        self._lookup = lookup
        self._tiers, self._most = tiers, max_input_tokens
        self._retry_failed, self._cache = retry_failed, cache
        self._charges = charges
        self._large = 0
        self._keep, self._kept = keep, list[tuple[int, int, Question]]()
        self.counting = encoding_status(llm.model)
        """How tokens are counted, in words."""
        self.is_counted = self.counting.startswith("tiktoken")
        """Whether by the model's own vocabulary."""
        self.sample = TokenSample(exact=exact or not self.is_counted)
        """The sample of prompts whose tokens were counted."""
        system = llm.system
        self.fixed = PER_CHAT + PER_MESSAGE
        """Tokens of every item beside its prompt."""
        if system is not None:
            self.fixed += PER_MESSAGE + self._count(system)
        bounds = [*tiers, *(() if max_input_tokens is None else (max_input_tokens,))]
        self._certainly_small = max(0, min(bounds) - self.fixed) if bounds else None

    def read(self, rows: Iterable[Any], seen: Callable[[int], None]) -> None:
        """Look at each row once.

        Args:
            rows: the rows.
            seen: is told now and then how many there were.

        Raises:
            InputError: the rows cannot be read.
            JournalError: the run's journal cannot.
        """
        asked = Asked() if self._lookup is None else None
        try:
            for index, row in enumerate(rows):
                self._add(index, row, self._lookup or asked)  # type: ignore[arg-type]
                if not index % 256:
                    seen(index + 1)
        finally:
            if asked is not None:
                asked.close()

    def tokens(self, group: Group) -> Span:
        """Return the input tokens of a group of items."""
        beside = Span.exactly(self.fixed * group.items + group.certain)
        if self.sample.complete:
            return beside + Span.exactly(group.counted)
        return beside + self.sample.ratio(self.counts.items).times(group.size)

    def kept(self) -> list[Question]:
        """Return the questions kept for a sample, evenly spread, in order."""
        return [question for _, question in sorted(each[1:] for each in self._kept)]

    @property
    def measured(self) -> int:
        """Of how many prompts the tokens were counted."""
        return len(self.sample) + self._large

    def note_answer(self, tokens: int | None, input_tokens: int, output_tokens: int) -> None:
        """Learn from an answer.

        Args:
            tokens: of the whole prompt as counted here; None where they were not.
            input_tokens: the same as counted by the provider; 0 if it does not say.
            output_tokens: those of the answer, likewise.
        """
        if tokens is not None and input_tokens:
            self.inputs.add(tokens, input_tokens)
        if output_tokens:
            self.outputs.add(1, output_tokens)

    def note_asked(self, question: Question) -> None:
        """Count an item of the sample as answered."""
        self.counts.answered += 1
        tokens, large = self._count(question.text), self._is_large(question.text)
        left = self.left[self._tier(question, tokens) if large else 0]
        left.add(question, tokens, large=large, sign=-1)
        self.known.add(question, tokens, large=large)
        if self._charges:
            left.add_charge(-each for each in self._provider.reserve(self.request(question)))

    def count(self, question: Question) -> int:
        """Return the tokens that an item has, as counted here."""
        return self.fixed + question.beside + self._count(question.text)

    def request(self, question: Question) -> Request:
        """Return the request for an item, without a key."""
        llm = self._llm
        return Request(
            model=self._provider.model,
            messages=question.messages,
            system=llm.system,
            max_tokens=llm.max_tokens,
            temperature=llm.temperature,
            options=llm.options,
        )

    # --- one row ----------------------------------------------------------------------

    def _add(self, index: int, row: Any, asked: Lookup | Asked) -> None:
        counts = self.counts
        counts.items += 1
        try:
            prompt = self._make_prompt(row, index)
            if isinstance(prompt, LeftOut):
                self._leave_out(prompt, index)
                return
            question = Question.of(prompt)
        except InputError as error:
            counts.note_unusable(index, str(error))
            return
        if self._is_empty(row, prompt):
            counts.note_empty(index)
        tokens, large = self._measured(index, question.text)
        whole = self.fixed + question.beside + (tokens or 0)
        if large and self._most is not None and whole > self._most:
            counts.too_long += 1
            if counts.first_too_long is None:
                counts.first_too_long = index
            return
        if self._place(question, tokens, asked, large=large) and self._keep:
            self._offer(index, question)

    def _leave_out(self, row: LeftOut, index: int) -> None:
        if row.empty:
            self.counts.note_empty(index)
        else:
            self.counts.note_unusable(index, row.reason)

    def _measured(self, index: int, text: str) -> tuple[int | None, bool]:
        """Return a prompt's tokens if counted, and whether it may be large."""
        if self._is_large(text):
            self._large += 1
            return self._count(text), True
        if not self.sample.wants(index):
            return None, False
        tokens = self._count(text)
        self.sample.add(index, len(text), tokens)
        return tokens, False

    def _is_large(self, text: str) -> bool:
        """Return whether a prompt may exceed a bound: its bytes do."""
        small = self._certainly_small
        return (
            small is not None
            and len(text) * _MOST_BYTES > small
            and len(text.encode("utf-8", "surrogatepass")) > small
        )

    def _place(
        self, question: Question, tokens: int | None, asked: Lookup | Asked, *, large: bool
    ) -> bool:
        """Add an item to its groups; return True if left to ask."""
        counts, groups = self.counts, [self.every]
        request = self.request(question)
        key = self._fingerprint(request)
        nth = asked.count(key) if isinstance(asked, Asked) else asked.ask(key)
        counts.repeated += nth > 0
        known = None if self._lookup is None else self._lookup.find(key, 0 if self._cache else nth)
        if known is not None and known.answered:
            counts.answered += 1
            groups.append(self.known)
            whole = None if tokens is None else self.fixed + question.beside + tokens
            self.note_answer(whole, known.input_tokens, known.output_tokens)
        elif known is not None and not self._retry_failed:
            counts.failed_before += 1
        elif not (self._cache and nth):
            left = self.left[self._tier(question, tokens or 0) if large else 0]
            groups.append(left)
            if self._charges:
                left.add_charge(self._provider.reserve(request))
        for group in groups:
            group.add(question, tokens or 0, large=large)
        return len(groups) > 1 and groups[1] is not self.known

    def _tier(self, question: Question, tokens: int) -> int:
        """Return the price tier of a prompt with this many tokens."""
        whole = self.fixed + question.beside + tokens
        return sum(whole > above for above in self._tiers)

    def _fingerprint(self, request: Request) -> bytes:
        return fingerprint(body=canonical(request), **self._asks)

    def _offer(self, index: int, question: Question) -> None:
        """Keep a question if its place is among the lowest so far."""
        entry = (-spread(index), index, question)
        if len(self._kept) < self._keep:
            heapq.heappush(self._kept, entry)
        elif entry > self._kept[0]:
            heapq.heapreplace(self._kept, entry)

    def _count(self, text: str) -> int:
        return count_tokens(text, self._llm.model) if self.is_counted else estimate_tokens(text)
