"""Checked by mypy and pyright only: output types, and what calls return for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypedDict, assert_type

import polars as pl
from pydantic import BaseModel

from llmflow import LLM, BatchInferenceNode, Response, Result, ResultList, make_plan
from llmflow.mapping.sync_map import AnswerStream


class Review(BaseModel):
    score: int


@dataclass
class Person:
    name: str


class Place(TypedDict):
    town: str


class Colour(Enum):
    RED = "red"


async def calls(llm: LLM, wanted: type[Review] | None) -> None:
    assert_type(await llm("text", output_type=Review), Review)
    assert_type(await llm("text", output_type=Person, max_tokens=5, top_p=0.9), Person)
    assert_type(await llm("text", output_type=Place), Place)
    assert_type(await llm("text", output_type=Colour), Colour)
    assert_type(await llm("text", output_type=int), int)
    assert_type(await llm("text", output_type=list[Review]), list[Review])
    assert_type(await llm("text", output_type=dict[str, Review]), dict[str, Review])
    assert_type(await llm("text", output_type=tuple[int, str]), tuple[int, str])
    # What is no class: its value can be used as anything.
    assert_type(await llm("text", output_type=Literal["yes", "no"]), Any)
    assert_type(await llm("text", output_type=Review | Person), Any)
    assert_type(await llm("text", output_type={"type": "object"}), Any)
    assert_type(await llm("text", output_type=wanted), Any)

    assert_type(await llm.complete("text", output_type=Review), Response[Review])
    assert_type((await llm.complete("text", output_type=Review)).parsed, Review)
    assert_type((await llm.complete("text", output_type=Literal["yes"])).parsed, Any)
    assert_type((await llm.complete("text")).parsed, Any)
    assert_type(await llm.submit("text", output_type=Review), bool)


def calls_sync(llm: LLM) -> None:
    assert_type(llm.run("text", output_type=Review), Review)
    assert_type(llm.run("text", output_type=Literal["yes", "no"]), Any)
    assert_type(llm.complete_sync("text", output_type=Review), Response[Review])
    assert_type(llm.complete_sync("text").parsed, Any)


async def of_the_llm() -> None:
    assert_type(LLM("sim/demo"), LLM)
    assert_type(LLM("sim/demo"), LLM[str])
    reviews = LLM("sim/demo", output_type=Review, max_tokens=5, reasks=2)
    assert_type(reviews, LLM[Review])
    assert_type(await reviews("text"), Review)
    assert_type(reviews.run("text"), Review)
    assert_type((await reviews.complete("text")).parsed, Review)
    assert_type(reviews.complete_sync("text").parsed, Review)
    assert_type(await reviews("text", output_type=int), int)
    assert_type(LLM("sim/demo", output_type=Literal["yes", "no"]), LLM[Any])
    assert_type(reviews.varied(mode="auto"), LLM[Review])
    assert_type(reviews.varied(output_type=Person), LLM[Person])
    assert_type(LLM("sim/demo").varied(output_type=list[int], reasks=0), LLM[list[int]])


class Reviewer(LLM[Review]):
    def __init__(self) -> None:
        super().__init__("sim/demo", output_type=Review, temperature=0)


async def of_a_subclass() -> None:
    assert_type(await Reviewer()("text"), Review)
    assert_type(Reviewer().varied(mode="batch"), Reviewer)


async def many(llm: LLM, texts: list[str]) -> None:
    async for result in llm.map(texts, prompt="{text}", output_type=Review):
        assert_type(result, Result[str, Review])
        assert_type(result.parsed, Review)
    results = await llm.map(texts, output_type=Review, reasks=0)
    assert_type(results, ResultList[str, Review])
    assert_type(results.parsed(), list[Review])
    assert_type(results.parsed(default=None), list[Review | None])
    assert_type((await llm.map(texts)).parsed(), list[Any])
    assert_type(await llm.map(texts, output_type=Literal["yes"]), ResultList[str])
    reviews = LLM("sim/demo", output_type=Review)
    assert_type(await reviews.map(texts), ResultList[str, Review])
    assert_type(await reviews.map(texts, output_type=int), ResultList[str, int])
    assert_type(await reviews.map(texts, output_type=Literal["yes"]), ResultList[str])
    async for answer in reviews.map(texts):
        assert_type(answer.parsed, Review)
    frame = pl.DataFrame({"text": texts})
    assert_type(await llm.map(frame, prompt="{text}", output_type=Review), pl.DataFrame)
    async for row in llm.map(frame, prompt="{text}", output_type=Review):
        assert_type(row.item, dict[str, Any])


def many_sync(llm: LLM, texts: list[str]) -> None:
    assert_type(llm.map_sync(texts, output_type=Review).parsed(), list[Review])
    assert_type(llm.map_sync(texts, output_type=int, stream=True), AnswerStream[str, int])
    reviews = LLM("sim/demo", output_type=Review)
    assert_type(reviews.map_sync(texts).parsed(), list[Review])
    assert_type(reviews.map_sync(texts, stream=True), AnswerStream[str, Review])
    assert_type(llm.map_sync(texts, output_type=Literal["yes"], stream=True), AnswerStream[str])
    for result in llm.map_sync(texts, output_type=int, stream=True):
        assert_type(result.parsed, int)
    frame = pl.DataFrame({"text": texts})
    assert_type(llm.map_sync(frame, prompt="{text}", output_type=Review), pl.DataFrame)


class Labels(BatchInferenceNode):
    def result(self, text: str, response: Response[Review]) -> int:
        return response.parsed.score


Labels(llm=LLM("sim/demo", output_type=Review))
make_plan(LLM("sim/demo", output_type=Review), ["text"])
