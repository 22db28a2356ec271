"""Answers of a wanted type: parsed, judged, asked again; journal and cache keep the raw answer."""

from __future__ import annotations

import asyncio
import copy
import enum
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from llmflow import LLM, AsyncNode, Batch, BatchInferenceNode, Budget, Response, Run
from llmflow.budget import prompt_tokens
from llmflow.budget.forecast import DEFAULT_OUTPUT
from llmflow.errors import (
    BadGenerationError,
    ConfigurationError,
    InvalidAnswerError,
    InvalidRequestError,
    ProviderError,
    UnknownArgumentError,
)
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.typed.methods import OutputMethods
from llmflow.typed.output_type import as_output_type
from llmflow.types import Request, WireRequest
from tests.batch.fakes import FakeProvider, FakeServer

RIGHT = '{"mood": "good", "score": 4}'
WRONG = '{"mood": "good", "score": 9}'


class Review(pydantic.BaseModel):
    mood: Literal["good", "bad"]
    score: int = pydantic.Field(ge=1, le=5)


@dataclass
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Scripted(ScriptedProvider):
    """One that takes output types, as those do that put them into words."""

    outputs: Any = OutputMethods(("prompt", None))


class FakeJobs(FakeProvider):
    sends = frozenset({"output_schema"})


def scripted(*texts: str) -> Scripted:
    return Scripted(texts, sends=("output_schema",), latency=0.001)


def typed(*texts: str, **settings: Any) -> tuple[Scripted, Any]:
    """Return a provider that answers with these texts, and an LLM."""
    provider = scripted(*texts)
    return provider, LLM(provider, **settings)


def test_an_answer_comes_as_its_type() -> None:
    provider, llm = typed(*[RIGHT] * 3)
    value = run_virtual(llm("a review", output_type=Review))
    assert value == Review(mood="good", score=4)
    response = run_virtual(llm.complete("another", output_type=Review))
    assert (response.text, response.parsed) == (RIGHT, value)
    assert run_virtual(llm("text")) == RIGHT, "of this call only"
    assert [len(each.wanted) for each in provider.requests] == [1, 1, 0]


def test_the_type_of_an_llm_is_that_of_all_its_calls_that_say_none() -> None:
    _, llm = typed(RIGHT, '{"x": 1, "y": 2}', output_type=Review)
    assert run_virtual(llm("a review")) == Review(mood="good", score=4)
    assert run_virtual(llm("a point", output_type=Point)) == Point(1, 2)
    assert llm.output_type is not None
    assert llm.output_type.type is Review


def test_the_synchronous_methods_do_the_same() -> None:
    _, llm = typed(RIGHT, RIGHT, output_type=Review)
    assert llm.run("a review").score == 4
    assert llm.complete_sync("a review").parsed.score == 4


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, '{"response": 5}', 5),
        (list[str], '{"response": ["a"]}', ["a"]),
        (Literal["yes", "no"], '{"response": "no"}', "no"),
        (Colour, '{"response": "red"}', Colour.RED),
        (Review | Point, '{"response": {"x": 1, "y": 2}}', Point(1, 2)),
        (None | int, '{"response": null}', None),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, '{"n": 1}', {"n": 1}),
    ],
)
def test_all_kinds_of_types_are_taken(kind: Any, text: str, value: Any) -> None:
    assert run_virtual(LLM(scripted(text))("?", output_type=kind)) == value


def test_a_wrong_answer_is_asked_again_with_what_is_wrong() -> None:
    provider, llm = typed(WRONG, RIGHT, output_type=Review)
    assert run_virtual(llm("a review")).score == 4
    first, second = provider.requests
    assert [each["role"] for each in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1]["content"] == WRONG
    assert "score" in second.messages[2]["content"]
    assert second.wanted == first.wanted


def test_what_stays_wrong_is_a_named_failure_with_the_raw_text() -> None:
    with pytest.raises(InvalidAnswerError, match="score") as caught:
        run_virtual(LLM(scripted(WRONG, WRONG), output_type=Review)("a review"))
    assert caught.value.response.text == WRONG
    assert caught.value.response.parsed is None
    assert "pydantic" not in str(caught.value)
    carried = pickle.loads(pickle.dumps(caught.value))
    assert (carried.message, carried.response) == (caught.value.message, caught.value.response)


def test_validate_sees_the_value_and_both_must_accept() -> None:
    def low(response: Response) -> bool:
        return bool(response.parsed.score < 3)

    _, llm = typed(WRONG, RIGHT, RIGHT.replace("4", "2"), output_type=Review, reasks=2)
    llm.validate = low
    assert run_virtual(llm("a review")).score == 2


def test_a_validator_that_raises_anything_only_refuses_the_answer() -> None:
    class Odd(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def fails(cls, value: int) -> int:
            if value == 1:
                raise KeyError("oops")
            return value

    provider, llm = typed('{"n": 1}', '{"n": 2}')
    assert run_virtual(llm("?", output_type=Odd)).n == 2
    assert "KeyError" in provider.requests[1].messages[-1]["content"]


def test_a_node_around_demands_beside_the_type() -> None:
    class Asks(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return await llm("a review", output_type=Review)

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared["review"] = exec_res

    _, llm = typed(RIGHT, RIGHT.replace("4", "2"))
    shared: dict[str, Any] = {}
    run_virtual(Asks(validate=lambda each: each.parsed.score < 3).run_async(shared))
    assert shared["review"].score == 2


@pytest.mark.parametrize("options", [{"cache": True}, {}])
def test_journal_and_cache_keep_the_raw_answer_and_parse_it_again(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    provider, llm = typed(WRONG, RIGHT, output_type=Review, **options)

    async def main(name: str) -> Any:
        async with Run(name, folder=tmp_path) as run:
            response = await llm.complete("a review")
            return response, run.statistics()

    first, _ = asyncio.run(main("typed"))
    again, done = asyncio.run(main("typed"))
    assert again.parsed == first.parsed == Review(mood="good", score=4)
    assert again.parsed is not first.parsed
    assert (again.source, done.replayed, done.reasked) == ("journal", 1, 1)
    if options:
        other, done = asyncio.run(main("another"))
        assert (other.parsed, other.source) == (first.parsed, "cache")
        assert (done.cached, done.reasked, done.done) == (1, 1, 1)
    assert len(provider.requests) == 2
    written = b"".join(each.read_bytes() for each in tmp_path.rglob("*.sqlite*"))
    assert b"parsed" not in written


def test_a_stricter_model_of_today_finds_an_old_answer_wrong_and_asks_again(
    tmp_path: Path,
) -> None:
    bound = 5

    class Bounded(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def is_small(cls, value: int) -> int:
            if value > bound:
                raise ValueError(f"more than {bound}")
            return value

    provider, llm = typed('{"n": 5}', '{"n": 3}', output_type=Bounded)

    async def main() -> tuple[int, Any]:
        async with Run("strict", folder=tmp_path) as run:
            found = await llm("?")
            return found.n, run.statistics()

    assert asyncio.run(main())[0] == 5
    bound = 4
    n, done = asyncio.run(main())
    assert (n, done.answered, done.replayed, done.reasked) == (3, 1, 0, 1)
    n, done = asyncio.run(main())
    assert (n, done.answered, done.replayed, done.reasked) == (3, 0, 1, 1)
    assert len(provider.requests) == 2


async def test_equal_calls_in_flight_share_one_raw_answer_if_their_types_are_the_same() -> None:
    provider, llm = typed(RIGHT, '{"x": 1, "y": 2}', dedupe=True)
    async with Run():
        one, two, point = await asyncio.gather(
            llm("?", output_type=Review),
            llm("?", output_type=Review),
            llm("?", output_type=Point),
        )
    assert one == two == Review(mood="good", score=4)
    assert one is not two
    assert point == Point(1, 2)
    assert len(provider.requests) == 2


async def test_equal_wrong_answers_are_shared_and_so_is_the_next() -> None:
    provider, llm = typed(WRONG, RIGHT, dedupe=True, output_type=Review)
    async with Run() as run:
        found = await asyncio.gather(*[llm("?") for _ in range(3)])
        assert {each.score for each in found} == {4}
        done = run.statistics()
    assert len(provider.requests) == 2
    assert (done.answered, done.shared, done.reasked, done.done) == (1, 2, 3, 3)


async def test_an_answer_that_was_submitted_is_parsed_when_it_is_asked_for(
    tmp_path: Path,
) -> None:
    server = FakeServer(fate=lambda prompt, job: RIGHT)
    llm: Any = LLM(FakeJobs(server), batch=Batch(quiet=0.02, poll=0.005), output_type=Review)
    async with Run("submitted", folder=tmp_path, mode="batch") as run:
        assert await llm.submit("a review")
        await run.settled()
        assert (await llm("a review")).score == 4
    assert server.sizes == [1]


async def test_rows_of_a_job_are_parsed_and_wrong_ones_go_into_the_next_round(
    tmp_path: Path,
) -> None:
    def fate(prompt: str, job: int) -> str:
        return WRONG if prompt.endswith(("3", "7")) and "not accepted" not in prompt else RIGHT

    server = FakeServer(fate=fate)
    llm = LLM(FakeJobs(server), mode="batch", batch=Batch(quiet=0.02, poll=0.005))
    async with Run("rows", folder=tmp_path) as run:
        typed = llm.varied(output_type=Review)
        results = await typed.map([f"{n}" for n in range(10)])
        assert [each.response.parsed.score for each in results if each.response] == [4] * 10
        assert run.statistics().reasked == 2
    assert server.sizes == [10, 2]


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"response_format": {"type": "json_object"}},
            {"output_format": {"type": "json_schema"}},
            {"output_config": {"effort": "low", "format": {"type": "json_schema"}}},
            {"text": {"format": {"type": "json_object"}}},
        ],
    )
    def test_another_form_of_the_answer_is_refused(self, options: dict[str, Any]) -> None:
        provider = scripted(RIGHT)
        for llm, given in ((LLM(provider), options), (LLM(provider, options=options), None)):
            with pytest.raises(ConfigurationError, match="output_type"):
                run_virtual(llm("?", output_type=Review, options=given))
        assert provider.requests == []
        with pytest.raises(ConfigurationError, match="output_type"):
            LLM(scripted(), options=options, output_type=Review)

    def test_what_says_no_form_is_taken(self) -> None:
        options: Any = {"output_config": {"effort": "low"}, "response_format": None, "tools": [{}]}
        _, llm = typed(RIGHT, options=options, output_type=Review)
        assert run_virtual(llm("?")).score == 4

    def test_tools_are_refused_where_the_answer_is_one(self) -> None:
        class ByTool(Scripted):
            outputs = OutputMethods(("tool", None))

        with pytest.raises(ConfigurationError, match="tools"):
            LLM(ByTool(sends=("output_schema",)), options={"tools": [{}]}, output_type=Review)

    @pytest.mark.parametrize("given", [object(), {"type": "nonsense"}, lambda: 1])
    def test_what_is_no_type_is_refused_at_once(self, given: Any) -> None:
        with pytest.raises(ConfigurationError):
            LLM(scripted(), output_type=given)

    def test_a_provider_that_takes_no_type_refuses_it_before_anything_is_sent(self) -> None:
        provider = ScriptedProvider([RIGHT])
        provider.sends = frozenset()
        with pytest.raises(ConfigurationError, match="output_schema"):
            run_virtual(LLM(provider)("?", output_type=Review))
        assert provider.requests == []

    def test_a_method_may_be_chosen(self) -> None:
        class Two(Scripted):
            outputs = OutputMethods(("json_object", None), ("prompt", None))

        provider = Two([RIGHT], sends=("output_schema",))
        llm: Any = LLM(provider, output_type=Review, output_method="prompt")
        assert llm.provider.outputs.chosen(llm.output_type.output).method == "prompt"
        assert provider.outputs.chosen(llm.output_type.output).method == "json_object"
        with pytest.raises(ConfigurationError, match="tool"):
            LLM(Two(), output_method="tool")
        with pytest.raises(ConfigurationError, match="output_method"):
            LLM(FakeProvider(FakeServer()), output_method="tool")

    def test_a_misspelt_argument_is_named(self) -> None:
        with pytest.raises(UnknownArgumentError, match="output_type"):
            LLM(scripted(), outputtype=Review)  # type: ignore[call-overload]


@pytest.mark.parametrize("copied", [lambda llm: pickle.loads(pickle.dumps(llm)), copy.deepcopy])
def test_copies_carry_the_type(copied: Any) -> None:
    twin = copied(LLM("sim/demo", output_type=Review, reasks=3))
    assert twin.output_type.type is Review
    assert twin.reasks == 3
    assert twin.output_type is copied(twin).output_type, "worked out once"


def test_a_type_made_in_place_cannot_be_carried_and_the_error_says_what_to_do() -> None:
    class Local(pydantic.BaseModel):
        n: int

    with pytest.raises(ConfigurationError, match=r"output_type=.*type of a module"):
        pickle.dumps(LLM("sim/demo", output_type=Local))


class Refusing(ScriptedProvider):
    """A server that takes no schema, and says so."""

    def __init__(self, *ways: Any, error: ProviderError | None = None, **options: Any) -> None:
        super().__init__(sends=("output_schema",), **options)
        self.outputs = OutputMethods(*[(each, None) for each in ways])
        self.error = error or InvalidRequestError("no json_schema here", status=400)
        self.sent: list[str] = []

    def refuses_output(self, error: ProviderError, request: Request) -> bool:
        return "json_schema" in error.message and request.output is not None

    async def complete(self, request: Request, *, timeout: float) -> Response:
        assert request.output is not None
        method = self.outputs.chosen(request.output).method
        self.sent.append(method)
        if method != "tool":
            raise copy.copy(self.error)
        return await super().complete(request, timeout=timeout)


class OneBadPrompt(Refusing):
    """Refuses one prompt, in words that are like those about a method."""

    async def complete(self, request: Request, *, timeout: float) -> Response:
        assert request.output is not None
        self.sent.append(self.outputs.chosen(request.output).method)
        if request.messages[-1]["content"] == "bad":
            raise copy.copy(self.error)
        return await ScriptedProvider.complete(self, request, timeout=timeout)


class TestRefusedMethods:
    def test_the_next_method_is_asked_and_remembered(self) -> None:
        provider = Refusing("json_schema", "json_object", "tool", default=RIGHT)
        llm: Any = LLM(provider, output_type=Review)

        async def main() -> Any:
            async with Run() as run:
                found = await asyncio.gather(*[llm(f"review {n}") for n in range(5)])
                return found, run.statistics()

        found, done = run_virtual(main())
        assert [each.score for each in found] == [4] * 5
        assert (done.answered, done.failed) == (5, 0)
        assert set(provider.sent[-5:]) == {"tool"}
        count = len(provider.sent)
        assert run_virtual(llm("another")).score == 4
        assert provider.sent[count:] == ["tool"]

    def test_the_error_of_one_prompt_does_not_change_the_method_of_the_others(self) -> None:
        provider = OneBadPrompt("json_schema", "tool", default=RIGHT)
        llm: Any = LLM(provider, output_type=Review)

        async def main() -> Any:
            first = await llm("a review")
            rest = [llm("bad"), *[llm(f"review {number}") for number in range(3)]]
            return [first, *await asyncio.gather(*rest, return_exceptions=True)]

        found = run_virtual(main())
        assert isinstance(found.pop(1), InvalidRequestError)
        assert [each.score for each in found] == [4] * 4
        assert provider.sent == ["json_schema"] * 5

    def test_without_another_method_the_refusal_is_the_error(self) -> None:
        provider = Refusing("json_schema")
        with pytest.raises(InvalidRequestError, match="no json_schema here"):
            run_virtual(LLM(provider, output_type=Review)("a review"))
        assert provider.sent == ["json_schema"]

    def test_another_refusal_is_the_error_at_once(self) -> None:
        provider = Refusing("json_schema", "tool", error=InvalidRequestError("no", status=400))
        with pytest.raises(InvalidRequestError, match="no"):
            run_virtual(LLM(provider, output_type=Review)("a review"))
        assert provider.sent == ["json_schema"]


class TestRefusedGenerations:
    """Some servers reject what their own model wrote."""

    def test_it_is_a_wrong_answer(self, tmp_path: Path) -> None:
        error = BadGenerationError("not the schema", partial_text=WRONG, status=400)
        provider = ScriptedProvider([error, RIGHT], sends=("output_schema",))
        llm: Any = LLM(provider, output_type=Review)

        async def main() -> Any:
            async with Run("refused", folder=tmp_path) as run:
                return await llm("a review"), run.statistics()

        found, done = asyncio.run(main())
        assert found.score == 4
        assert WRONG in [each["content"] for each in provider.requests[1].messages]
        assert (done.answered, done.failed, done.reasked) == (1, 0, 1)
        found, done = asyncio.run(main())
        assert found.score == 4
        assert (done.replayed, done.failed_before, done.reasked) == (1, 0, 1)
        assert len(provider.requests) == 2

    def test_what_stays_wrong_keeps_its_text(self, tmp_path: Path) -> None:
        error = BadGenerationError("not the schema", partial_text="{", status=400)
        provider = ScriptedProvider([error, error], sends=("output_schema",))

        async def main() -> Any:
            async with Run() as run:
                with pytest.raises(InvalidAnswerError) as caught:
                    await LLM(provider, output_type=Review)("a review")
                return caught.value, run.statistics()

        problem, done = asyncio.run(main())
        assert problem.response.text == "{"
        assert (done.answered, done.failed, done.reasked) == (0, 1, 1)

    @pytest.mark.parametrize("is_again", [False, True])
    def test_one_without_text_counts_as_empty_only_while_it_is_the_answer(
        self, tmp_path: Path, is_again: bool
    ) -> None:
        error = BadGenerationError("not the schema", status=400)
        provider = ScriptedProvider([error, RIGHT], sends=("output_schema",))

        async def main() -> Any:
            async with Run("empty", folder=tmp_path) as run:
                assert (await LLM(provider, output_type=Review)("a review")).score == 4
                return run.statistics()

        for _ in range(1 + is_again):
            done = asyncio.run(main())
            assert (done.answers, done.reasked, done.empty, done.cut) == (1, 1, 0, 0)

    def test_without_a_type_it_is_the_error(self) -> None:
        provider = ScriptedProvider([BadGenerationError("no", partial_text="{")])
        with pytest.raises(BadGenerationError):
            run_virtual(LLM(provider, validate=lambda response: False)("a review"))


async def test_rejected_rows_of_a_job_are_asked_again(tmp_path: Path) -> None:
    def fate(prompt: str, job: int) -> Any:
        is_wrong = prompt.endswith("3") and "not accepted" not in prompt
        return BadGenerationError("no", partial_text="{", status=400) if is_wrong else RIGHT

    server = FakeServer(fate=fate)
    llm = LLM(FakeJobs(server), mode="batch", batch=Batch(quiet=0.02, poll=0.005))
    async with Run("rows", folder=tmp_path) as run:
        results = await llm.varied(output_type=Review).map([f"{n}" for n in range(10)])
        assert [len(results.failed), run.statistics().answered] == [0, 10]
        assert (run.statistics().failed, run.statistics().reasked) == (0, 1)
    assert server.sizes == [10, 1]


class Reviews(BatchInferenceNode):
    async def prep_async(self, shared: Any) -> Any:
        return shared["texts"]

    async def post_async(self, shared: Any, prep_res: Any, results: Any) -> None:
        shared["results"] = results


class TestNode:
    @pytest.mark.parametrize("mode", ["batch", "parallel"])
    def test_its_results_are_values(self, mode: Any, tmp_path: Path) -> None:
        def fate(prompt: str, job: int) -> str:
            return WRONG if prompt.endswith("3") and "not accepted" not in prompt else RIGHT

        server = FakeServer(fate=fate)
        llm = LLM(FakeJobs(server), batch=Batch(quiet=0.02, poll=0.005))
        if mode == "parallel":
            llm = LLM(ScriptedProvider(default=RIGHT, sends=("output_schema",)))
        shared: dict[str, Any] = {"texts": [f"{n}" for n in range(5)]}
        node = Reviews(llm=llm, mode=mode, output_type=Review, reasks=2)
        asyncio.run(node.run_async(shared))
        assert shared["results"] == [Review(mood="good", score=4)] * 5
        assert llm.output_type is None, "of the node only"
        if mode == "batch":
            assert server.sizes == [5, 1]

    def test_no_re_asks_is_a_failure_of_the_item(self) -> None:
        llm = LLM(ScriptedProvider([WRONG], sends=("output_schema",)))
        node = Reviews(llm=llm, mode="parallel", output_type=Review, reasks=0, on_error="collect")
        shared: dict[str, Any] = {"texts": ["a"]}
        asyncio.run(node.run_async(shared))
        assert isinstance(shared["results"][0].error, InvalidAnswerError)

    def test_an_item_may_have_a_type_of_its_own(self) -> None:
        class Two(Reviews):
            def request(self, item: Any) -> Any:
                return {"prompt": item, "output_type": Point} if item == "point" else item

        replies = {"point": '{"x": 1, "y": 2}', "review": RIGHT}
        provider = ScriptedProvider(
            default=lambda request: replies[request.messages[0]["content"]],
            sends=("output_schema",),
        )
        shared: dict[str, Any] = {"texts": ["point", "review"]}
        node = Two(llm=LLM(provider), mode="parallel", output_type=Review)
        asyncio.run(node.run_async(shared))
        assert shared["results"] == [Point(1, 2), Review(mood="good", score=4)]


class TestWhatIsSentBesideThePrompt:
    REQUEST = LLM("sim/demo").call_for("A question.")[1].request

    def test_a_schema_counts_as_the_provider_sends_it(self) -> None:
        output = as_output_type(Review).output
        request = replace(self.REQUEST, wanted=(output,))
        outputs = OutputMethods(("prompt", None))
        bare = prompt_tokens(self.REQUEST)
        assert prompt_tokens(request, outputs) == bare + outputs.chosen(output).tokens
        assert prompt_tokens(request) > bare

    @pytest.mark.virtual_time
    async def test_a_budget_keeps_back_what_the_schema_takes(self) -> None:
        provider = Scripted(default=RIGHT, sends=("output_schema",), latency=1.0)
        async with Run(budget=Budget(tokens=10**6)) as run:
            asking = asyncio.ensure_future(LLM(provider)("?", output_type=Review))
            while not provider.requests:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            ledger = run.session.ledger
            assert ledger is not None
            kept = 10**6 - (ledger.remaining().tokens or 0)
            await asking
        schema = OutputMethods(("prompt", None)).chosen(as_output_type(Review).output).tokens
        assert schema + DEFAULT_OUTPUT < kept < 2 * schema + DEFAULT_OUTPUT

    def test_jobs_of_one_schema_are_told_apart_by_it(self) -> None:
        server = FakeServer(
            fate=lambda prompt, job: RIGHT if prompt == "review" else '{"x": 1, "y": 2}'
        )
        server.limits = replace(server.limits, uniform_schema=True)
        llm: Any = LLM(FakeJobs(server), mode="batch", batch=Batch(quiet=0.02, poll=0.005))

        async def main() -> Any:
            return await asyncio.gather(
                *[llm("review", output_type=Review) for _ in range(3)],
                *[llm("point", output_type=Point) for _ in range(2)],
            )

        assert asyncio.run(main()) == [Review(mood="good", score=4)] * 3 + [Point(1, 2)] * 2
        assert sorted(server.sizes) == [2, 3]


class RefusedJobs(FakeProvider):
    """Its rows fail where they are sent by json_schema."""

    sends = frozenset({"output_schema"})

    def __init__(self, server: FakeServer, *methods: Any) -> None:
        super().__init__(server)
        self.outputs = OutputMethods(*[(each, None) for each in methods])

    def refuses_output(self, error: ProviderError, request: Request) -> bool:
        return "json_schema" in error.message

    def encode(self, request: Request) -> WireRequest:
        if request.output is not None:
            method = self.outputs.chosen(request.output).method
            said = f"{method}: {request.messages[-1]['content']}"
            request = replace(request, messages=({"role": "user", "content": said},))
        return super().encode(request)


def by_method(prompt: str, job: int) -> Any:
    if prompt.startswith("json_schema"):
        return InvalidRequestError("unknown json_schema", status=400)
    return RIGHT


class TestRefusedMethodsInJobs:
    @pytest.mark.parametrize("name", ["run", None])
    async def test_rows_go_into_the_next_job_by_the_next_method(
        self, tmp_path: Path, name: str | None
    ) -> None:
        server = FakeServer(fate=by_method)
        for again in range(2 if name else 1):
            provider = RefusedJobs(server, "json_schema", "tool")
            llm = LLM(provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005))
            folder = tmp_path if name else None
            async with Run(name, folder=folder) as run:
                typed = llm.varied(output_type=Review)
                results = await typed.map([f"{n}" for n in range(10)])
                assert [each.parsed.score for each in results] == [4] * 10
                done = run.statistics()
            assert (done.failed, done.failed_before, done.done) == (0, 0, 10)
            assert done.answered == (0 if again else 10)
        assert server.sizes == [10, 10]

    async def test_the_error_of_one_row_does_not_change_the_method_of_later_jobs(self) -> None:
        def fate(prompt: str, job: int) -> Any:
            return by_method(prompt, job) if prompt.endswith("bad") else RIGHT

        server = FakeServer(fate=fate)
        provider = RefusedJobs(server, "json_schema", "tool")
        llm = LLM(provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005))
        async with Run():
            typed = llm.varied(output_type=Review)
            first = await typed.map(["1", "2"])
            assert [each.parsed.score for each in first] == [4] * 2
            later = await typed.map(["3", "bad"])
        assert isinstance(later[1].error, InvalidRequestError)
        assert later[0].parsed.score == 4
        assert server.sizes == [2, 2]

    async def test_calls_that_wait_are_asked_again_too(self, tmp_path: Path) -> None:
        server = FakeServer(fate=by_method)
        provider = RefusedJobs(server, "json_schema", "tool")
        llm: Any = LLM(provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005))
        async with Run("run", folder=tmp_path) as run:
            found = await asyncio.gather(*[llm(f"{n}", output_type=Review) for n in range(5)])
            assert [each.score for each in found] == [4] * 5
            assert (run.statistics().failed, run.statistics().answered) == (0, 5)
        assert server.sizes == [5, 5]

    async def test_what_was_submitted_is_asked_again_when_it_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        server = FakeServer(fate=by_method)
        provider = RefusedJobs(server, "json_schema", "tool")
        llm: Any = LLM(
            provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005), output_type=Review
        )
        async with Run("run", folder=tmp_path) as run:
            for n in range(5):
                assert await llm.submit(f"{n}")
            await run.settled()
            results = await llm.map([f"{n}" for n in range(5)])
            assert [each.parsed.score for each in results] == [4] * 5
            assert (run.statistics().failed, run.statistics().failed_before) == (0, 0)
            assert run.statistics().done == 5
        assert server.sizes == [5, 5]

    async def test_without_another_method_the_refusal_is_the_error(self, tmp_path: Path) -> None:
        server = FakeServer(fate=by_method)
        provider = RefusedJobs(server, "json_schema")
        llm = LLM(provider, mode="batch", batch=Batch(quiet=0.02, poll=0.005))
        for _ in range(2):
            async with Run("run", folder=tmp_path) as run:
                results = await llm.varied(output_type=Review).map(["1", "2"])
                assert [type(each.error) for each in results] == [InvalidRequestError] * 2
            assert run.statistics().done == 2
        assert server.sizes == [2]
