"""A plan: every number is the true one, or a range that the true one is in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, Batch, Price, Quota, tokens
from llmflow.calls.replay import Asked, fingerprint
from llmflow.errors import AuthenticationError, ConfigurationError, ContentFilterError, InputError
from llmflow.jobs.plan_estimates import MOST, Pairs, TokenSample
from llmflow.jobs.plan_report import lines
from llmflow.jobs.planning import Plan, Span, make_plan
from llmflow.journal import Journal
from llmflow.journal.reading import Lookup
from llmflow.limits.registry import forget_limiters
from llmflow.rows import PromptTemplate
from llmflow.runs.catalog import find_run, runs_folder
from llmflow.runs.run import Run
from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread
from llmflow.testing import ScriptedProvider
from llmflow.tokens import count_tokens, estimate_tokens
from llmflow.types import Request, Response, Usage

# Where no package carries the vocabulary, tokens are estimated, and a plan has ranges.
has_vocabulary = pytest.mark.skipif(
    tokens._find("o200k_base") is None, reason="no package here carries the vocabulary"
)
TEMPLATE = PromptTemplate("Say: {text}")
PRICE = Price(input=2, output=10, batch_input=1, batch_output=5)
MINI = "openai/gpt-4.1-mini"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    forget_limiters()
    yield
    forget_limiters()


@pytest.fixture
def simulator() -> Iterator[Callable[..., SimulatorThread]]:
    with ExitStack() as stack:

        def start(**settings: Any) -> SimulatorThread:
            settings = {"latency": 0.0, "answer": "echo"} | settings
            return stack.enter_context(serve_in_thread(SimulatorSettings(**settings)))

        yield start


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {number} " * (1 + number % 7)} for number in range(count)]


def prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [TEMPLATE.render(row) for row in rows]


def plan_of(llm: LLM, rows: list[dict[str, Any]], **options: Any) -> Plan:
    return make_plan(llm, rows, TEMPLATE, **options)


def said(plan: Plan) -> dict[str, tuple[str, str]]:
    return {line.what: (line.amount, line.how) for line in lines(plan)}


async def answer(llm: LLM, asked: list[str], *, run: str, **options: Any) -> None:
    """Ask in a run, one after the other, whatever becomes of it."""
    async with Run(run, **options):
        for prompt in asked:
            await asyncio.gather(llm.complete(prompt), return_exceptions=True)


class TestTokens:
    @has_vocabulary
    def test_every_prompt_is_counted_with_what_a_chat_adds(self) -> None:
        rows = texts(50)
        plan = plan_of(LLM(MINI, system="Be brief."), rows)
        counted = sum(count_tokens(prompt, MINI) for prompt in prompts(rows))
        beside = 11 + count_tokens("Be brief.", MINI)
        assert plan.input_tokens == Span.exactly(counted + 50 * beside)
        assert plan.measured == 50

    def test_an_estimate_is_a_range(self) -> None:
        rows = texts(50)
        plan = plan_of(LLM("sim/demo"), rows)
        estimated = sum(7 + estimate_tokens(prompt) for prompt in prompts(rows))
        assert plan.input_tokens == Span(estimated / 2, estimated, estimated * 2)
        assert "within a factor of two" in said(plan)["input tokens"][1]

    @has_vocabulary
    def test_of_many_rows_a_sample_is_counted_and_its_range_holds(self) -> None:
        rng = random.Random(7)
        rows = [{"text": "tide comes " * rng.randint(1, 60)} for _ in range(MOST + 5000)]
        plan = plan_of(LLM(MINI), rows)
        exact = plan_of(LLM(MINI), rows, exact=True)
        assert plan.measured < MOST < exact.measured == len(rows)
        assert exact.input_tokens.is_exact
        low, likely, high = plan.input_tokens
        assert low < exact.input_tokens.likely < high
        assert likely == pytest.approx(exact.input_tokens.likely, rel=0.01)
        assert "--exact counts all" in said(plan)["input tokens"][1]

    def test_a_sample_keeps_no_step_with_the_input(self) -> None:
        sample = TokenSample()
        for index in range(4 * MOST):  # every other text has twice the tokens
            if sample.wants(index):
                sample.add(index, 10, 5 if index % 2 else 10)
        assert not sample.complete
        assert len(sample) <= MOST
        assert sample.ratio(4 * MOST).likely == pytest.approx(0.75, rel=0.01)

    def test_large_texts_make_the_sample_smaller(self) -> None:
        sample = TokenSample()
        for index in range(1000):
            if sample.wants(index):
                sample.add(index, 1_000_000, 250_000)
        assert len(sample) < 200
        assert sample.ratio(1000).likely == 0.25

    @has_vocabulary
    def test_prompts_that_are_too_long_are_counted_and_named(self) -> None:
        rows = [*texts(3), {"text": "tide " * 9000}, {"text": "tide " * 8100}, *texts(2)]
        plan = plan_of(LLM("openai/gpt-4"), rows)
        assert plan.max_input_tokens == 8192
        assert (plan.too_long, plan.first_too_long, plan.left) == (1, 3, 6)
        assert said(plan)["too long"] == (
            "1",
            "openai/gpt-4 takes 8,192 tokens; the first is row 3",
        )

    def test_rows_without_the_field_are_counted_and_named(self) -> None:
        rows = [*texts(2), {"other": 1}, {"text": None}, *texts(1)]
        plan = plan_of(LLM("sim/demo"), rows)
        assert (plan.items, plan.unusable, plan.left) == (5, 2, 3)
        assert plan.first_unusable is not None
        assert plan.first_unusable[0] == 2
        assert "has no field 'text'" in said(plan)["cannot be asked"][1]


class TestRanges:
    @pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (5, 2.571), (20, 2.086)])
    def test_few_answers_make_a_wide_range(self, freedom: int, quantile: float) -> None:
        pairs = Pairs()
        values = [10.0, 14.0] * 20
        for value in values[: freedom + 1]:
            pairs.add(1, value)
        mean = sum(values[: freedom + 1]) / (freedom + 1)
        variance = sum((v - mean) ** 2 for v in values[: freedom + 1]) / freedom
        half = quantile * (variance / (freedom + 1)) ** 0.5
        found = pairs.of_others(10**12)
        assert found.likely == pytest.approx(mean)
        assert found.high - found.likely == pytest.approx(half, rel=0.01)

    def test_one_answer_tells_little(self) -> None:
        pairs = Pairs()
        pairs.add(1, 30)
        assert pairs.of_others(100) == Span(0, 30, 60)

    @given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=50))
    def test_what_was_counted_whole_is_no_range(self, amounts: list[tuple[int, int]]) -> None:
        pairs = Pairs()
        for x, y in amounts:
            pairs.add(x, y)
        found = pairs.of_all(len(amounts))
        assert found.is_exact
        assert found.likely == sum(y for _, y in amounts) / sum(x for x, _ in amounts)


class TestPrice:
    @has_vocabulary
    def test_the_price_is_that_of_what_is_left(self) -> None:
        rows = texts(40)
        plan = plan_of(LLM(MINI, price=PRICE, max_tokens=100), rows)
        tokens = plan.input_tokens.likely
        assert plan.input_cost is not None
        assert plan.input_cost.is_exact
        assert plan.cost is not None
        assert plan.batch_cost is not None
        assert plan.cost.low == pytest.approx(tokens * 2e-6)
        assert plan.cost.high == pytest.approx(tokens * 2e-6 + 40 * 100 * 10e-6)
        assert plan.batch_cost.high == pytest.approx(plan.cost.high / 2)
        assert said(plan)["cost"][0].startswith("at most $")

    def test_an_unknown_price_is_said(self) -> None:
        plan = plan_of(LLM("openai/my-own-model"), texts(3))
        assert (plan.price, plan.cost, plan.batch_cost) == (None, None, None)
        assert said(plan)["cost"][0] == "unknown"

    def test_the_simulator_is_free(self) -> None:
        assert said(plan_of(LLM("sim/demo"), texts(3)))["cost"][0] == "free"

    def test_without_a_price_of_batch_jobs_none_is_made_up(self) -> None:
        plan = plan_of(LLM(MINI, price=Price(input=1, output=2)), texts(3))
        assert plan.batch_cost is None
        assert said(plan)["cost in a batch"][0] == "unknown"

    @has_vocabulary
    @pytest.mark.parametrize("chosen", [False, True])
    def test_it_says_what_a_cache_primer_saves(self, chosen: bool) -> None:
        llm = LLM(
            "anthropic/claude-sonnet-4-5",
            api_key="-",
            system="Answer with the words that you were asked with. " * 120,
            options={"cache_system": "1h"},
            max_tokens=10,
            batch=Batch(primer=chosen),
        )
        plan = plan_of(llm, texts(1001))
        assert plan.primer is not None
        assert (plan.primer.chosen, plan.primer.tokens > 1024) == (chosen, True)
        # In a batch job writing for an hour costs $3.00, reading $0.15 per million tokens.
        assert plan.primer.usd == pytest.approx(1000 * plan.primer.tokens * 2.85e-6)
        amount, how = said(plan)["a cache primer saves"]
        assert amount.startswith("up to $")
        assert ("primer = true" in how) is not chosen

    def test_without_a_mark_there_is_nothing_to_prime(self) -> None:
        llm = LLM("anthropic/claude-sonnet-4-5", api_key="-", max_tokens=10)
        plan = plan_of(llm, texts(10))
        assert plan.primer is None
        assert "a cache primer saves" not in said(plan)

    @has_vocabulary
    def test_longer_prompts_have_their_own_price(self) -> None:
        price = Price(input=1, output=10, longer=(1000, Price(input=2, output=20)))
        rows = [*texts(5), {"text": "tide " * 1200}, {"text": "t" * 1300}]
        plan = plan_of(LLM(MINI, price=price, max_tokens=10), rows)
        counts = [7 + count_tokens(prompt, MINI) for prompt in prompts(rows)]
        assert [count > 1000 for count in counts].count(True) == 1
        expected = sum(n * (2 if n > 1000 else 1) + 10 * (20 if n > 1000 else 10) for n in counts)
        assert plan.cost is not None
        assert plan.cost.high == pytest.approx(expected / 1e6)

    def test_a_budget_without_a_price_cannot_be_kept(self) -> None:
        with pytest.raises(ConfigurationError, match="needs the price"):
            plan_of(LLM("openai/my-own-model"), texts(3), budget=1.0)

    def test_how_far_a_budget_goes(self) -> None:
        llm = LLM(MINI, price=Price(input=0, output=1000), max_tokens=100)  # 10 cents an item
        plan = plan_of(llm, texts(40), budget=1.05)
        assert plan.budget is not None
        assert plan.budget.items.low == 10
        assert said(plan)["budget"] == ("$1.05", "covers at least 10 of 40 rows")
        assert said(plan_of(llm, texts(40), budget=4.5))["budget"][1] == "covers all rows"


class TestOutput:
    def test_nothing_known_is_an_assumption(self) -> None:
        plan = plan_of(LLM("sim/demo"), texts(4))
        assert (plan.output.basis, plan.output.each.likely) == ("assumed", 1024)
        assert plan.output_tokens_left.likely == 4096
        assert "assumed" in said(plan)["output tokens"][1]

    def test_max_tokens_is_an_upper_bound(self) -> None:
        plan = plan_of(LLM("sim/demo", max_tokens=50), texts(4))
        assert plan.output.basis == "max_tokens"
        assert said(plan)["output tokens"][0] == "at most 200"

    async def test_earlier_runs_of_the_model_tell(self) -> None:
        llm = LLM(ScriptedProvider(default="four words of answer"))
        await answer(llm, ["a", "b"], run="earlier", about={"model": llm.model})
        await answer(llm, ["a", "b"], run="another", about={"model": "other/model"})
        plan = plan_of(llm, texts(4), run="new")
        totals = find_run("earlier").totals
        assert (plan.output.basis, plan.output.answers) == ("history", 2)
        assert plan.output.each.likely == totals.output_tokens / 2

    async def test_no_answer_is_longer_than_max_tokens(self) -> None:
        llm = LLM(ScriptedProvider(default="four words of answer"), max_tokens=1)
        await answer(llm, ["a", "b"], run="earlier", about={"model": llm.model})
        assert plan_of(llm, texts(4)).output.each == Span.exactly(1)


class TestTime:
    def test_the_limit_that_takes_longest_binds(self) -> None:
        llm = LLM(MINI, quota=Quota(rpm=100, tpm=1_000_000))
        plan = plan_of(llm, texts(50), origins={"rpm": "--rpm"})
        assert plan.binding is not None
        assert (plan.binding.dimension, plan.binding.origin) == ("rpm", "--rpm")
        assert plan.seconds == Span.exactly(30)
        assert [pace.dimension for pace in plan.paces] == ["rpm", "tpm"]
        assert said(plan)["time"][0] == "at least 30.0 s"

    def test_tokens_count_as_the_provider_charges_them(self) -> None:
        rows = [{"text": "tide " * 80}] * 10  # 405 characters are 102 tokens at OpenAI's door
        plan = plan_of(LLM(MINI, quota=Quota(tpm=1000), max_tokens=50), rows)
        assert plan.seconds is not None
        assert plan.seconds.likely == pytest.approx(60 * 10 * 102 / 1000)
        forget_limiters()
        plan = plan_of(LLM(MINI, quota=Quota(tpm=1000), max_tokens=500), rows)
        assert plan.seconds == Span.exactly(60 * 10 * 500 / 1000)

    def test_a_daily_limit_takes_days(self) -> None:
        plan = plan_of(LLM(MINI, quota=Quota(rpm=600, rpd=20)), texts(50))
        assert plan.binding is not None
        assert (plan.binding.dimension, plan.binding.days) == ("rpd", 3)
        amount, how = said(plan)["time"]
        assert amount == "at least 3 days"
        assert "run it again the next day" in how

    def test_what_fits_into_a_day_is_not_bound_by_it(self) -> None:
        plan = plan_of(LLM(MINI, quota=Quota(rpm=600, rpd=1000)), texts(50))
        assert plan.binding is not None
        assert plan.binding.dimension == "rpm"

    def test_without_a_quota_the_time_is_unknown(self) -> None:
        plan = plan_of(LLM(MINI), texts(5))
        assert (plan.paces, plan.seconds) == ((), None)
        assert "llmflow quotas --probe" in said(plan)["time"][1]


class TestJournal:
    async def test_what_is_answered_is_not_paid_again(self, simulator: Any) -> None:
        server = simulator()
        llm = LLM("sim/demo", base_url=server.url, system="Be brief.", temperature=0.5)
        rows = [*texts(8), {"text": "twice"}, {"text": "twice"}]
        await answer(llm, [*prompts(rows)[:4], "Say: twice", "Say: other"], run="job")
        plan = plan_of(llm, rows, run="job")
        assert (plan.answered, plan.left, plan.repeated) == (5, 5, 1)
        assert plan.run_exists
        assert (plan.output.basis, plan.output.answers) == ("run", 5)
        assert plan.corrected_by == 5
        # Another temperature is another question.
        other = LLM("sim/demo", base_url=server.url, system="Be brief.", temperature=0.6)
        assert plan_of(other, rows, run="job").answered == 0

    async def test_a_plan_of_a_finished_run_costs_nothing(self) -> None:
        llm = LLM(ScriptedProvider(default="yes"), price=PRICE)
        await answer(llm, prompts(texts(6)), run="job")
        plan = plan_of(llm, texts(6), run="job")
        assert (plan.answered, plan.left, plan.cost) == (6, 0, Span.exactly(0))
        assert said(plan)["time"][0] == "none"

    async def test_a_run_at_work_is_looked_into_without_disturbing_it(self) -> None:
        llm = LLM(ScriptedProvider(default="yes"))
        async with Run("job"):
            await llm.complete(prompts(texts(1))[0])
            plan = await asyncio.to_thread(plan_of, llm, texts(3), run="job")
            await llm.complete(prompts(texts(2))[1])
        assert (plan.answered, plan.left) == (1, 2)
        assert plan_of(llm, texts(3), run="job").answered == 2

    async def test_what_failed_is_asked_again_only_on_request(self) -> None:
        llm = LLM(ScriptedProvider([ContentFilterError("no"), "yes"]))
        await answer(llm, prompts(texts(2)), run="job")
        plan = plan_of(llm, texts(5), run="job")
        assert (plan.answered, plan.failed_before, plan.left) == (1, 1, 3)
        plan = plan_of(llm, texts(5), run="job", retry_failed=True)
        assert (plan.answered, plan.failed_before, plan.left) == (1, 0, 4)

    async def test_a_plan_makes_no_run(self) -> None:
        plan = plan_of(LLM("sim/demo"), texts(2), run="never")
        assert not plan.run_exists
        assert not (runs_folder() / "never").exists()

    def test_with_a_cache_equal_rows_are_paid_once(self) -> None:
        rows = [{"text": "twice"}, {"text": "twice"}, {"text": "once"}]
        assert plan_of(LLM("sim/demo"), rows).left == 3
        plan = plan_of(LLM("sim/demo"), rows, cache=True)
        assert (plan.left, plan.repeated) == (2, 1)

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=12),
        st.lists(st.integers(0, 3), max_size=20),
    )
    async def test_a_lookup_knows_what_the_journal_knows(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        recorded: list[tuple[int, int]],
        questions: list[int],
    ) -> None:
        folder = tmp_path_factory.mktemp("journal")
        keys = [
            fingerprint(provider="p", endpoint="", model="m", body=b"%d" % number)
            for number in range(4)
        ]
        response = Response(
            text="yes", usage=Usage(output_tokens=3), finish_reason=None, model="m", provider="p"
        )
        journal = Journal.open(folder)
        journal.begin({})
        asked = Asked()
        for number, uses in recorded:
            nth = asked.count(keys[number])
            if number == 3:
                error = ContentFilterError("no")
                await journal.record(keys[number], nth, error, uses=uses)
            else:
                await journal.record(keys[number], nth, response, uses=uses)
        journal.close()
        journal, lookup = Journal.open(folder), Lookup.open(folder)
        assert lookup is not None
        asked = Asked()
        for number in questions:
            nth = asked.count(keys[number])
            found, known = journal.find(keys[number], nth), lookup.find(keys[number], nth)
            assert (known is None) == (found is None)
            if known is not None:
                assert known.answered == isinstance(found, Response)
        lookup.close()
        journal.close()


class TestSample:
    def test_a_sample_is_asked_once_and_kept(self, simulator: Any) -> None:
        server = simulator()
        llm, rows = LLM("sim/demo", base_url=server.url), texts(40)
        plan = plan_of(llm, rows, run="job", sample=10)
        assert plan.sample is not None
        assert (plan.sample.items, plan.sample.new, plan.sample.kept) == (10, 10, True)
        assert (plan.answered, plan.left) == (10, 30)
        assert (plan.output.basis, plan.output.answers) == ("sample", 10)
        assert plan.corrected_by == 10
        asyncio.run(answer(llm, prompts(rows), run="job"))
        assert server.stats().answered == 40
        totals = find_run("job").totals
        assert plan.input_tokens.low <= totals.input_tokens <= plan.input_tokens.high

    def test_answers_are_forecast_within_the_range(self, simulator: Any) -> None:
        llm, rows = LLM("sim/demo", base_url=simulator().url), texts(60)
        plan = plan_of(llm, rows, run="job", sample=12)
        before = find_run("job").totals.output_tokens
        asyncio.run(answer(llm, prompts(rows), run="job"))
        came = find_run("job").totals.output_tokens - before
        low, _, high = plan.output_tokens_left
        assert low <= came <= high

    def test_a_sample_is_spread_over_the_rows(self) -> None:
        asked: list[int] = []

        def reply(request: Request) -> str:
            asked.append(int(request.messages[0]["content"].split()[2]))
            return "yes"

        plan_of(LLM(ScriptedProvider(default=reply)), texts(1000), sample=10)
        assert len(asked) == 10
        gaps = [b - a for a, b in zip([0, *sorted(asked)], [*sorted(asked), 1000], strict=True)]
        assert max(gaps) <= 200

    def test_without_a_run_the_sample_is_paid_and_gone(self) -> None:
        plan = plan_of(LLM(ScriptedProvider(default="yes"), price=PRICE), texts(9), sample=3)
        assert (plan.answered, plan.left) == (0, 9)
        assert "not kept" in said(plan)["sample"][1]

    def test_a_failure_of_the_sample_is_left_to_the_run(self) -> None:
        provider = ScriptedProvider([ContentFilterError("no")], default="yes")
        plan = plan_of(LLM(provider), texts(9), run="job", sample=3)
        assert plan.sample is not None
        assert (plan.sample.new, plan.sample.failed, plan.left) == (2, 1, 7)
        assert find_run("job").totals.failures == 0
        assert "ContentFilterError" in said(plan)["sample"][1]

    def test_what_every_row_would_meet_ends_the_plan(self) -> None:
        llm = LLM(ScriptedProvider(default=AuthenticationError("wrong key")))
        with pytest.raises(AuthenticationError):
            plan_of(llm, texts(9), run="job", sample=3)

    def test_what_is_answered_already_is_no_part_of_a_sample(self) -> None:
        provider = ScriptedProvider(default="yes")
        asyncio.run(answer(LLM(provider), prompts(texts(7)), run="job"))
        plan = plan_of(LLM(provider), texts(9), run="job", sample=5)
        assert plan.sample is not None
        assert (plan.sample.items, plan.left) == (2, 0)
        assert len(provider.requests) == 9


def test_rows_are_read_once_and_none_is_an_error() -> None:
    rows = iter(texts(3))
    assert make_plan(LLM("sim/demo"), rows, TEMPLATE).items == 3
    with pytest.raises(InputError):
        PromptTemplate("without a field")


def test_a_plan_can_be_written_as_json() -> None:
    import orjson

    plan = plan_of(LLM("sim/demo"), [{"no": 1}, *texts(2)])
    data = orjson.loads(orjson.dumps(plan.to_dict()))
    assert data["left"] == 2
    assert data["first_unusable"]["index"] == 0
    assert data["output"]["each"] == {"low": 0.0, "likely": 1024.0, "high": None}
