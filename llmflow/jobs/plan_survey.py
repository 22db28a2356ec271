"""Survey of the rows for a plan: one pass, in bounded memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llmflow.call_options import as_messages, sendable
from llmflow.calls.replay import Asked, canonical, fingerprint, server_of
from llmflow.errors import InputError, redact
from llmflow.jobs.plan_estimates import Pairs, Span, TokenSample, spread
from llmflow.parts import Wanted, texts
from llmflow.rows import LeftOut
from llmflow.tokens import count_tokens, encoding_status, estimate_tokens
from llmflow.types import Request

if TYPE_CHECKING:
    from llmflow.journal.reading import Lookup
    from llmflow.llm import LLM
    from llmflow.mapping.prompts import MakePrompt

_MOST_BYTES: Final = 4  # of one character; a token has at least one
# What a chat takes beside its texts: each message 3 and its role 1, and 3 for the answer to
# begin (OpenAI's cookbook, "How to count tokens with tiktoken").
_PER_MESSAGE: Final = 4
_PER_CHAT: Final = 3


def _schema_tokens(llm: LLM) -> int:
    """Return the tokens of the schema that goes with every request."""
    outputs = getattr(llm.provider, "outputs", None)
    if llm.output_type is None or outputs is None:
        return 0
    tokens: int = outputs.chosen(llm.output_type.output).tokens
    return tokens


class Question(NamedTuple):
    """The messages of one item, all text in them, and further tokens."""

    messages: tuple[Mapping[str, Any], ...]
    text: str
    beside: int = 0

    @classmethod
    def of(cls, prompt: Any) -> Question:
        """Return the question of a text or a list of chat messages.

        >>> Question.of("How high is the tide?").text
        'How high is the tide?'
        """
        if type(prompt) is str:
            return cls(({"role": "user", "content": prompt},), prompt)
        messages = as_messages(prompt)
        text = "\n".join(part for each in messages for part in texts(each.get("content")))
        return cls(messages, text, _PER_MESSAGE * (len(messages) - 1))


@dataclass(slots=True)
class Group:
    """Items and their tokens."""

    items: int = 0  # how many
    size: int = 0  # characters of those whose tokens may be estimated
    counted: int = 0  # tokens of those, as far as they were counted
    certain: int = 0  # tokens of the other ones, which were all counted

    def add(self, question: Question, tokens: int, *, large: bool, sign: int = 1) -> None:
        """Add an item; with -1 as the sign, take it out."""
        self.items += sign
        self.certain += sign * (question.beside + (tokens if large else 0))
        if not large:
            self.size += sign * len(question.text)
            self.counted += sign * tokens


class Survey:
    """Counts what the rows ask, in one pass.

    `tiers` are tokens above which a prompt has another price, `keep` is the size of a sample. The
    other arguments are those of `make_plan`.
    """

    def __init__(
        self,
        llm: LLM,
        make_prompt: MakePrompt,
        *,
        is_empty: Callable[[Any, Any], bool],
        lookup: Lookup | None,
        tiers: tuple[int, ...],
        max_input_tokens: int | None,
        retry_failed: bool,
        cache: bool,
        exact: bool,
        keep: int,
    ) -> None:
        self.counts: Counter[str] = Counter()  # rows by what became of them, as in `Plan`
        self.first: dict[str, Any] = {}  # index of the first row of a kind, and the reason
        self.others = Group()  # items that can be asked and are not left to ask
        self.left = [Group() for _ in range(len(tiers) + 1)]  # items left, by tier of price
        self.reserved = [0.0, 0.0, 0.0, 0.0]  # charged for these on arrival, beside requests
        self.inputs = Pairs()  # of answered prompts: tokens as counted here, and by the provider
        self.outputs = Pairs()  # of answers: 1, and their tokens
        self._llm, self._provider = llm, llm.provider
        self._make_prompt, self._is_empty = make_prompt, is_empty
        # As `llmflow.calls.session.Session` has it, without the call that it would be.
        self._asks = {
            "provider": llm.provider.name,
            "endpoint": server_of(llm.provider),
            "model": llm.provider.model,
        }
        self._lookup, self._tiers, self._most = lookup, tiers, max_input_tokens
        self._retry_failed, self._cache = retry_failed, cache
        limits = llm.limiter.statistics().limits
        self._charges = any(name not in ("rpm", "rpd") for name in limits)
        self._large = 0
        self._keep, self._kept = keep, list[tuple[int, int, Question]]()
        self.counting = encoding_status(llm.model)  # how tokens are counted, in words
        self.is_counted = self.counting.startswith("tiktoken")  # by the model's own vocabulary
        self._sample = TokenSample(exact=exact or not self.is_counted)
        system = 0 if llm.system is None else _PER_MESSAGE + self._count(llm.system)
        self._wanted: tuple[Wanted, ...] = ()
        if llm.output_type is not None:
            self._wanted = (llm.output_type.output,)
        # Tokens of every item beside its prompt.
        self._fixed = _PER_CHAT + _PER_MESSAGE + system + _schema_tokens(llm)
        bounds = [*tiers, *(() if max_input_tokens is None else (max_input_tokens,))]
        self._certainly_small = max(0, min(bounds) - self._fixed) if bounds else None

    def read(self, rows: Iterable[Any], seen: Callable[[int], None]) -> None:
        """Look at each row once."""
        with closing(Asked()) as asked:
            for index, row in enumerate(rows):
                self.counts["items"] = index + 1
                self._add(index, row, asked.count)
                if not index % 256:
                    seen(index + 1)

    @property
    def items_left(self) -> int:
        """The number of items that are left to ask."""
        return sum(group.items for group in self.left)

    def tokens(self, group: Group) -> Span:
        """Return the input tokens of a group of items."""
        beside = Span.exactly(self._fixed * group.items + group.certain)
        if self._sample.complete:
            return beside + Span.exactly(group.counted)
        return beside + self._sample.ratio(self.counts["items"]).times(group.size)

    def kept(self) -> list[Question]:
        """Return the questions kept for a sample, evenly spread, in order."""
        return [question for _, question in sorted(each[1:] for each in self._kept)]

    @property
    def measured(self) -> int:
        """Of how many prompts the tokens were counted."""
        return len(self._sample) + self._large

    def note_sample(self, question: Question, used: tuple[int, int], *, kept: bool) -> None:
        """Learn from an item of the sample; a kept one is answered."""
        tokens, large = self._count(question.text), self._is_large(question.text)
        self._note_answer(question, tokens, *used)
        if not kept:
            return
        self.counts["answered"] += 1
        left = self.left[self._tier(question, tokens) if large else 0]
        left.add(question, tokens, large=large, sign=-1)
        self.others.add(question, tokens, large=large)
        self._reserve(self.request(question), sign=-1)

    def request(self, question: Question) -> Request:
        """Return the request for an item, without a key."""
        llm = self._llm
        request = Request(
            model=self._provider.model,
            messages=question.messages,
            system=llm.system,
            max_tokens=llm.max_tokens,
            temperature=llm.temperature,
            options=llm.options,
            wanted=self._wanted,
        )
        return sendable(request, self._provider)

    # --- one row ----------------------------------------------------------------------

    def _add(self, index: int, row: Any, ask: Callable[[bytes], int]) -> None:
        try:
            prompt = self._make_prompt(row, index)
            if isinstance(prompt, LeftOut):
                self._note("empty" if prompt.empty else "unusable", index, prompt.reason)
                return
            question = Question.of(prompt)
        except InputError as error:
            self._note("unusable", index, str(error))
            return
        if self._is_empty(row, prompt):
            self._note("empty", index)
        text, tokens = question.text, None
        if large := self._certainly_small is not None and self._is_large(text):
            self._large += 1
            tokens = self._count(text)
            if self._most is not None and self._whole(question, tokens) > self._most:
                self._note("too_long", index)
                return
        elif self._sample.wants(index):
            tokens = self._count(text)
            self._sample.add(index, len(text), tokens)
        if self._place(question, tokens, ask, large=large) and self._keep:
            self._offer(index, question)

    def _note(self, kind: str, index: int, reason: str = "") -> None:
        """Count a row of a kind, and keep the first one."""
        self.counts[kind] += 1
        if kind not in self.first:
            self.first[kind] = (index, redact(reason)) if kind == "unusable" else index

    def _is_large(self, text: str) -> bool:
        """Return whether a prompt may exceed a bound: its bytes do."""
        small = self._certainly_small
        if small is None or len(text) * _MOST_BYTES <= small:
            return False
        return bool(len(text.encode("utf-8", "surrogatepass")) > small)

    def _place(
        self, question: Question, tokens: int | None, ask: Callable[[bytes], int], *, large: bool
    ) -> bool:
        """Add an item to its groups; return True if left to ask."""
        counts = self.counts
        request = self.request(question)
        key = fingerprint(body=canonical(request), **self._asks)
        nth = ask(key)
        if nth:
            counts["repeated"] += 1
        known = None if self._lookup is None else self._lookup.find(key, 0 if self._cache else nth)
        if known is not None and known.answered:
            counts["answered"] += 1
            self._note_answer(question, tokens, known.input_tokens, known.output_tokens)
        elif known is not None and not self._retry_failed:
            counts["failed_before"] += 1
        elif not (self._cache and nth):
            left = self.left[self._tier(question, tokens or 0) if large else 0]
            left.add(question, tokens or 0, large=large)
            self._reserve(request)
            return True
        self.others.add(question, tokens or 0, large=large)
        return False

    def _reserve(self, request: Request, sign: int = 1) -> None:
        """Add what an item is charged on arrival."""
        if self._charges:
            for unit, value in enumerate(self._provider.reserve(request)):
                self.reserved[unit] += sign * value

    def _note_answer(
        self, question: Question, tokens: int | None, input_tokens: int, output_tokens: int
    ) -> None:
        """Learn from an answer; the provider's counts are 0 where it gives none."""
        if tokens is not None and input_tokens:
            self.inputs.add(self._whole(question, tokens), input_tokens)
        if output_tokens:
            self.outputs.add(1, output_tokens)

    def _whole(self, question: Question, tokens: int) -> int:
        """Return the tokens of an item whose prompt has this many."""
        return self._fixed + question.beside + tokens

    def _tier(self, question: Question, tokens: int) -> int:
        """Return the price tier of a prompt with this many tokens."""
        whole = self._whole(question, tokens)
        return sum(whole > above for above in self._tiers)

    def _offer(self, index: int, question: Question) -> None:
        """Keep a question if its place is among the lowest so far."""
        entry = (-spread(index), index, question)
        if len(self._kept) < self._keep:
            heapq.heappush(self._kept, entry)
        elif entry > self._kept[0]:
            heapq.heapreplace(self._kept, entry)

    def _count(self, text: str) -> int:
        return count_tokens(text, self._llm.model) if self.is_counted else estimate_tokens(text)
