"""The key is of what is asked, and stays what it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from llmflow.calls.replay import canonical, fingerprint
from llmflow.parts import (
    Document,
    Image,
    OutputSchema,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmflow.types import Request


@dataclasses.dataclass
class Place:
    name: str
    _hidden: int = 1
    inner: object = None


class Model(BaseModel):
    x: int = 1


def asked(content: Any = "Hi", **changes: Any) -> Request:
    return Request(model="m", messages=({"role": "user", "content": content},), **changes)


def key(request: Request) -> str:
    body = canonical(request)
    return fingerprint(provider="p", endpoint="https://x.test/v1", model="m", body=body).hex()


@pytest.mark.parametrize(
    ("request_", "known"),
    [
        (asked(), "4aabd48e7edb7bf1fa0971943055da43"),
        (
            Request(
                model="m",
                messages=(
                    {"role": "system", "content": "S"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "Hi"},
                            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
                        ],
                    },
                ),
                system="Be brief. ☕",
                max_tokens=10,
                temperature=0.5,
                options={
                    "top_p": 0.5,
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            ),
            "1049cacaf65238c2e98225a5d30d5149",
        ),
        (asked("cut \ud83d"), "d744da928bbe7a7db1473755b0ea6696"),
        (asked(options={"seed": 2**70}), "3efce91aea8f4e3d24a3d0b4c0bd0d74"),
        (asked(options={"response_format": Model(x=2)}), "202aa0dc19568817afff7b87e77e7ca6"),
        (
            asked(options={"place": Place("A", inner=Model(x=3))}),
            "9a158a194d686fbfe3a89038c5ffdcc4",
        ),
    ],
    ids=["text", "everything", "half a pair", "large number", "pydantic", "dataclass"],
)
def test_keys_of_recorded_runs_stay_what_they_were(request_: Request, known: str) -> None:
    assert key(request_) == known


SCHEMA = {"type": "object"}
DIFFERENT = [
    asked(),
    asked((Text(text="Hi"),)),
    *(
        asked((Text(text="Hi"), kind(**source, media_type=media_type)))
        for kind in (Image, Document)
        for source in ({"data": b"1"}, {"data": b"2"}, {"url": "https://x.test"}, {"file_id": "1"})
        for media_type in (None, "image/png")
    ),
    asked((Image(data=b"1", detail="low"),)),
    asked((Document(data=b"1", name="a.pdf"),)),
    *(
        asked(wanted=wanted)
        for wanted in (
            (OutputSchema(schema=SCHEMA),),
            (OutputSchema(schema={}),),
            (OutputSchema(schema=SCHEMA, strict=False),),
            (Tool(name="a"),),
            (Tool(name="b"),),
            (Tool(name="a", parameters=SCHEMA),),
            (Tool(name="a"), ToolChoice(name="required")),
            (Tool(name="a"), OutputSchema(schema=SCHEMA)),
        )
    ),
    asked((ToolCall(id="1", name="a", arguments={}),)),
    asked((ToolResult(id="1", content="a"),)),
    asked((ToolResult(id="1", content=(Image(data=b"1"),)),)),
    asked((ToolResult(id="1", content=(Image(data=b"2"),)),)),
]


def test_whatever_is_asked_is_in_the_key() -> None:
    assert len({key(each) for each in DIFFERENT}) == len(DIFFERENT)


def test_equal_requests_have_equal_keys() -> None:
    for each in DIFFERENT:
        assert key(dataclasses.replace(each)) == key(each)
    assert key(asked([Text(text="Hi")])) == key(asked((Text(text="Hi"),)))


def test_the_key_is_made_of_a_digest_of_an_image() -> None:
    assert len(canonical(asked((Image(data=bytes(5_000_000)),)))) < 200


def test_a_schema_that_was_written_before_gives_the_same_key() -> None:
    schema = OutputSchema(schema={"type": "object", "title": "ö"})
    first = key(asked(wanted=(schema,)))
    assert key(asked(wanted=(schema,))) == first
    assert key(asked(wanted=(OutputSchema(schema={"type": "object", "title": "ö"}),))) == first
    assert canonical(asked(wanted=(schema,))).endswith(
        b'{},[{"kind":"output_schema","schema":{"type":"object","title":"\xc3\xb6"},'
        b'"name":"answer","strict":true}]]'
    )


@pytest.mark.parametrize("prompt", ["cut \ud83d", 2**70])
@pytest.mark.parametrize("title", ["T", "cut \ud83d", 2**70])
def test_what_orjson_cannot_write_may_stand_beside_a_schema(prompt: Any, title: Any) -> None:
    one, other = (OutputSchema(schema={"title": [title, each]}) for each in ("a", "b"))
    assert key(asked(prompt, wanted=(one,))) == key(asked(prompt, wanted=(one,)))
    assert key(asked(prompt, wanted=(one,))) != key(asked(prompt, wanted=(other,)))


def test_half_a_surrogate_pair_may_stand_beside_an_image() -> None:
    assert key(asked((Text(text="cut \ud83d"), Image(data=b"1")))) != key(
        asked((Text(text="cut"), Image(data=b"1")))
    )
