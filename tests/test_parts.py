"""Parts, tools and outputs are values: they can be pickled, compared, stored and shown."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.budget.forecast import prompt_tokens
from llmflow.errors import InputError
from llmflow.jobs.plan_survey import Question
from llmflow.parts import (
    KINDS,
    Document,
    Image,
    OutputSchema,
    Parsed,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Vector,
    plain,
    value_of,
)
from llmflow.telemetry import content
from llmflow.types import Request, Response, Usage

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
IMAGE = Image(data=b"\x89PNG secret", media_type="image/png", detail="low")
DOCUMENT = Document(file_id="file-1", name="a.pdf")
EXAMPLES: dict[str, Any] = {
    "text": Text(text="Hi"),
    "image": IMAGE,
    "document": DOCUMENT,
    "tool": Tool(name="weather", description="Look out.", parameters=SCHEMA),
    "tool_choice": ToolChoice(name="required"),
    "tool_call": ToolCall(id="call_1", name="weather", arguments={"city": "Bremen"}),
    "tool_result": ToolResult(id="call_1", content=(Text(text="Rain"), IMAGE)),
    "output_schema": OutputSchema(schema=SCHEMA),
    "parsed": Parsed(value={"city": ["Bremen", None, 1.5, True]}),
    "vector": Vector.of([0.5, -1.0, 3.25]),
}
OUTPUTS = ("parsed", "tool_call", "vector", "image", "document")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
fields = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
names = st.none() | st.text(max_size=9)
sources = (
    st.fixed_dictionaries({"data": st.binary(max_size=50)})
    | st.fixed_dictionaries({"url": st.text(max_size=9).map("https://x.test/{}".format)})
    | st.fixed_dictionaries({"file_id": st.text(max_size=9)})
)
outputs = (
    st.builds(Parsed, value=json_values)
    | st.builds(ToolCall, id=st.text(), name=st.text(), arguments=fields)
    | st.lists(st.floats(width=32, allow_nan=False), max_size=9).map(Vector.of)
    | st.builds(lambda s, m, d: Image(**s, media_type=m, detail=d), sources, names, names)
    | st.builds(lambda s, m, n: Document(**s, media_type=m, name=n), sources, names, names)
)
parts = (
    st.builds(Text, text=st.text())
    | outputs.filter(lambda each: not isinstance(each, Parsed | Vector))
    | st.builds(Tool, name=st.text(), description=names, parameters=st.none() | fields)
    | st.builds(OutputSchema, schema=fields, name=st.text(), strict=st.booleans())
)


def test_there_is_an_example_of_every_kind() -> None:
    assert EXAMPLES.keys() == KINDS.keys()
    assert all(type(value) is KINDS[kind] for kind, value in EXAMPLES.items())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_pickled_and_hashed(kind: str) -> None:
    value = EXAMPLES[kind]
    assert pickle.loads(pickle.dumps(value)) == value
    assert hash(pickle.loads(pickle.dumps(value))) == hash(value)


@given(value=outputs | parts)
def test_any_value_can_be_pickled_and_shown(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert repr(value).startswith(type(value).__name__)


@given(value=outputs)
def test_any_output_comes_back_from_json(value: Any) -> None:
    assert value_of(json.loads(json.dumps(plain(value)))) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (IMAGE, "Image(data=<11 bytes>, media_type='image/png', detail='low')"),
        (DOCUMENT, "Document(file_id='file-1', name='a.pdf')"),
        (Image(url="https://x.test/a.png?signature=1"), "Image(url='https://x.test/a.png?')"),
        (Image(url="https://me:word@x.test/a"), "Image(url='https://***@x.test/a')"),
        (EXAMPLES["vector"], "Vector(3 dimensions)"),
        (Vector.of([]), "Vector(0 dimensions)"),
    ],
)
def test_neither_bytes_nor_secrets_are_shown(value: Any, shown: str) -> None:
    assert repr(value) == shown


def test_a_vector_takes_four_bytes_for_each_number() -> None:
    vector = Vector.of([0.1] * 3072)
    assert (len(vector), len(vector.data)) == (3072, 4 * 3072)
    assert vector.values == pytest.approx([0.1] * 3072)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({}, "one of data, url and file_id; got 0"),
        ({"data": b"", "url": "https://x.test"}, "got 2"),
        ({"data": "a.png"}, r"must be bytes, such as Path\(name\).read_bytes\(\); got str"),
        ({"url": "a.png"}, r"must begin with https://; give a file as Image\(data="),
        ({"url": "data:image/png;base64,AAAA"}, "must begin with https://"),
    ],
)
def test_a_wrong_source_is_refused_with_the_remedy(given_: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Image(**given_)


def response(*values: Any, **changes: Any) -> Response:
    common: dict[str, Any] = {"finish_reason": None, "model": "m", "provider": "p"}
    return Response(**{"text": "", "usage": Usage(), "outputs": values, **common, **changes})


def test_a_response_tells_its_outputs_by_kind() -> None:
    call, vector = EXAMPLES["tool_call"], EXAMPLES["vector"]
    found = response(call, vector, Parsed(value=[1]), vector)
    assert (found.tool_calls, found.vectors, found.parsed) == ((call,), (vector, vector), [1])
    nothing = response()
    assert (nothing.tool_calls, nothing.vectors, nothing.parsed) == ((), (), None)
    assert nothing.is_empty
    assert not found.is_empty, "an answer without text is one"
    assert found != nothing
    assert pickle.loads(pickle.dumps(found)) == found


def request(*values: Any, **changes: Any) -> Request:
    return Request(model="m", messages=({"role": "user", "content": values},), **changes)


def test_spans_hold_no_bytes() -> None:
    told = json.dumps([content.of_request(request(Text(text="Hi"), IMAGE, DOCUMENT))])
    assert "secret" not in told
    assert "11 bytes" in told
    (message,) = orjson.loads(content.of_request(request(Text(text="Hi"), IMAGE)).popitem()[1])
    assert message["parts"] == [
        {"type": "text", "content": "Hi"},
        {"type": "image", "kind": "image", "data": "11 bytes"}
        | {"media_type": "image/png", "detail": "low"},
    ]
    (answer,) = orjson.loads(
        content.of_response(response(EXAMPLES["tool_call"], text="Well")).popitem()[1]
    )
    assert [each["type"] for each in answer["parts"]] == ["text", "tool_call"]
    for value in EXAMPLES.values():
        content.of_request(request(value))
        content.of_response(response(value))


def test_an_image_counts_as_one_of_usual_size() -> None:
    alone = prompt_tokens(request(Text(text="Hi")))
    assert prompt_tokens(request(Text(text="Hi"), IMAGE)) == alone + 1600
    assert prompt_tokens(request(Text(text="Hi"))) < 20
    wanted = (EXAMPLES["tool"], EXAMPLES["output_schema"])
    assert prompt_tokens(request(Text(text="Hi"), wanted=wanted)) > alone + 20


def test_a_request_tells_what_is_wanted_by_kind() -> None:
    schema, tool = EXAMPLES["output_schema"], EXAMPLES["tool"]
    found = request(wanted=(tool, ToolChoice(name="none"), schema, tool))
    assert (found.output, found.tools, found.tool_choice) == (schema, (tool, tool), "none")
    nothing = request()
    assert (nothing.output, nothing.tools, nothing.tool_choice) == (None, (), None)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_plan_counts_the_texts_among_parts() -> None:
    question = Question.of([{"role": "user", "content": (Text(text="How high?"), IMAGE)}])
    assert question.text == "How high?"


def test_a_value_takes_the_place_of_the_one_before_and_nothing_else_changes() -> None:
    call = ToolCall(id="1", name="a", arguments={})
    facts: dict[str, Any] = {
        **{each.name: each.name for each in dataclasses.fields(Response)},
        "outputs": (Parsed(value=1), call),
    }
    answer = Response(**facts)
    assert answer.with_parsed(2).outputs == (Parsed(value=2), call)
    for each in dataclasses.fields(Response):
        if each.name != "outputs":
            assert getattr(answer.with_parsed(2), each.name) == each.name
