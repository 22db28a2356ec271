"""The fourteen types with which typed answers are measured: every shape that schemas have."""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, create_model


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Review(BaseModel):
    """Flat."""

    title: str
    sentiment: Literal["positive", "negative", "neutral"]
    score: float
    pages: int
    recommended: bool


class Address(BaseModel):
    street: str
    city: str


class Person(BaseModel):
    name: str
    address: Address


class Company(BaseModel):
    """Nested, two levels deep."""

    name: str
    head: Person
    seat: Address


class Tree(BaseModel):
    """Recursive."""

    name: str
    children: list[Tree]


class Measured(BaseModel):
    """Unions of plain types, and one of a model with a plain type."""

    label: str
    value: int | str
    amount: float | bool | None
    place: Address | str


class Painted(BaseModel):
    """Enums: of a class, of texts, of numbers."""

    colour: Colour
    size: Literal["S", "M", "L"]
    level: Literal[1, 2, 3]


class Partial(BaseModel):
    """Optional fields, and fields with defaults."""

    title: str
    note: str | None = None
    pages: int | None = None
    tags: list[str] = []
    language: str = "en"
    address: Address | None = None


class Bounded(BaseModel):
    """Constraints on numbers, texts and lists."""

    score: Annotated[int, Field(ge=3, le=9)]
    share: Annotated[float, Field(gt=0.2, lt=0.4)]
    step: Annotated[int, Field(multiple_of=7, ge=10)]
    short: Annotated[str, Field(max_length=5)]
    long: Annotated[str, Field(min_length=30)]
    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]+$")]
    topics: Annotated[list[str], Field(min_length=2, max_length=4)]


class Order(BaseModel):
    """A list of models, and one of lists."""

    number: str
    addresses: list[Address]
    table: list[list[int]]


class Invoice(BaseModel):
    """A date, moments, and decimals."""

    day: dt.date
    at: dt.datetime
    opens: dt.time
    total: Decimal
    tax: Annotated[Decimal, Field(ge=0, max_digits=6, decimal_places=2)]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Owner(BaseModel):
    """A discriminated union."""

    name: str
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


Wide: Any = create_model(
    "Wide",
    **{f"field_{number}": ((str, int, float, bool)[number % 4], ...) for number in range(100)},  # type: ignore[call-overload]
)
"""A hundred fields."""


class Directory(BaseModel):
    """A dictionary of models."""

    name: str
    people: dict[str, Address]


class Located(BaseModel):
    """Tuples."""

    name: str
    point: tuple[int, str]
    corners: tuple[float, float, float]


class Nothing(BaseModel):
    """No properties."""


FOURTEEN: Final[dict[str, type[BaseModel]]] = {
    "flat": Review,
    "nested": Company,
    "recursive": Tree,
    "unions": Measured,
    "enums": Painted,
    "optional": Partial,
    "constraints": Bounded,
    "lists of models": Order,
    "date and decimal": Invoice,
    "discriminated union": Owner,
    "100 fields": Wide,
    "dict of models": Directory,
    "tuple": Located,
    "no properties": Nothing,
}
"""The types by what they show."""

BARE: Final[dict[str, Any]] = {
    "list of models": list[Review],
    "literal": Literal["positive", "negative"],
    "literal of two types": Literal["all", 0],
    "enum": Colour,
    "union of models": Cat | Dog,
    "tuple": tuple[int, str],
    "dict": dict[str, Address],
    "integer": int,
}
"""Types that are no objects, or no models, at their root."""
