"""The schema of the configuration file, as pydantic models.

pydantic is imported with this module, and this module when a file has content.
The fields of quotas, policies, timeouts and prices are those of `Quota`, `Retry`,
`Timeout` and `Price`, and so are the rules for their values: nothing is said twice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    ValidationError,
    create_model,
)

from llmflow.config.problems import Place, Problem, dotted, is_variable, nearest
from llmflow.config.settings import DURABILITIES, STORES
from llmflow.errors import redact
from llmflow.pricing import Price
from llmflow.provider_registry import installed_providers
from llmflow.retry import Retry
from llmflow.transport import Timeout
from llmflow.typed.methods import OutputMethod
from llmflow.types import Quota, parse_amount

NO_LIMIT: Final = "none"
"""What takes away a limit that a wider table has set: TOML has no null."""

_PLAIN = frozenset({"int", "float", "str", "None"})
_SECRETS = frozenset({"api_key", "apikey", "key", "token", "secret", "password"})
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _fields(kind: Any) -> dict[str, frozenset[str]]:
    """Return the fields of a value object that a file can say, with the names of their types."""
    found = {each.name: frozenset(str(each.type).split(" | ")) for each in dataclasses.fields(kind)}
    return {name: types for name, types in found.items() if types <= _PLAIN}


def _checked(kind: Any, name: str, nullable: bool, value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == NO_LIMIT and nullable:
        return None
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not true or false")
    try:
        return getattr(kind(**{**_needed(kind), name: value}), name)
    except TypeError:
        raise ValueError(f"{name} must be a number") from None


def _needed(kind: Any) -> dict[str, float]:
    """Return something for the fields that an object cannot be made without."""
    fields = dataclasses.fields(kind)
    return {each.name: 0.0 for each in fields if each.default is dataclasses.MISSING}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _table(name: str, kind: Any) -> Any:
    fields: dict[str, Any] = {
        field: (Annotated[Any, AfterValidator(partial(_checked, kind, field, "None" in types))], 0)
        for field, types in _fields(kind).items()
    }
    return create_model(name, __base__=_Table, **fields)


if TYPE_CHECKING:  # a type checker cannot see what is made
    QuotaTable: TypeAlias = _Table
    RetryTable: TypeAlias = _Table
    TimeoutTable: TypeAlias = _Table
    PriceTable: TypeAlias = _Table
else:
    QuotaTable = _table("QuotaTable", Quota)
    RetryTable = _table("RetryTable", Retry)
    TimeoutTable = _table("TimeoutTable", Timeout)
    PriceTable = _table("PriceTable", Price)


def _total(value: Any) -> Any:
    """Read ``timeout = 60`` as ``timeout = { total = 60 }``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"total": value} if number else value


def _variable(value: str) -> str:
    # What stands there may be the key itself: it is not repeated.
    if not is_variable(value):
        raise ValueError(
            "must be the name of an environment variable, such as OPENAI_API_KEY; "
            "what stands there is no such name, or is a key itself"
        )
    return value


def _address(value: str) -> str:
    try:
        parts = urlsplit(value.strip())
        host = parts.hostname if parts.port != 0 else None
    except ValueError:  # a port that is no number, a bracket too many
        parts, host = urlsplit(""), None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"must be an address such as https://host/v1; got {redact(value)!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"the address of {redact(host)} must hold no user, password, query or fragment: "
            "name the key's environment variable in key_env"
        )
    return value.strip()


def _folder(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("must be a folder's name; it is relative to the file")
    try:
        Path(value).expanduser()
    except RuntimeError:  # no such user, or no home
        raise ValueError(f"there is no home folder for {redact(value)!r}") from None
    return value


def _one_of(choices: Sequence[str], value: str) -> str:
    if value not in choices:
        close = nearest(value, choices)
        hint = f"did you mean {close!r}?" if close else f"choices are {', '.join(choices)}"
        raise ValueError(f"no such choice: {redact(value)!r}; {hint}")
    return value


_Variable = Annotated[str, AfterValidator(_variable)]
_Number = Annotated[float, Strict()]
_Whole = Annotated[int, Strict()]
_Amount = Annotated[Any, AfterValidator(partial(parse_amount, name="enqueued_tokens"))]


_OutputMethod = Annotated[str, AfterValidator(partial(_one_of, get_args(OutputMethod)))]
_Switch = Annotated[bool, Strict()]


class BatchTable(_Table):
    """``[batch]``, ``[providers.NAME.batch]`` and that of a model: the fields of a `Batch`.

    It stands above this part, which knows the names only; an `LLM` checks the values.
    """

    quiet: _Number | None = None
    poll: _Number | None = None
    rounds: _Whole | None = None
    requests: _Whole | None = None
    size: _Whole | None = None
    enqueued_tokens: _Amount | None = None
    jobs: _Whole | None = None
    few: _Whole | None = None
    primer: _Switch | None = None
    keep_files: _Switch | None = None


class ModelTable(_Table):
    """``[providers.NAME.models."PATTERN"]``."""

    quota: QuotaTable | None = None
    retry: RetryTable | None = None
    timeout: Annotated[TimeoutTable | None, BeforeValidator(_total)] = None
    price: PriceTable | None = None
    batch: BatchTable | None = None
    output_method: _OutputMethod | None = None


class KeyModelTable(_Table):
    """``[providers.NAME.keys.VARIABLE.models."PATTERN"]``."""

    quota: QuotaTable | None = None


class KeyTable(KeyModelTable):
    """``[providers.NAME.keys.VARIABLE]``."""

    models: dict[str, KeyModelTable] = {}


class ProviderTable(ModelTable):
    """``[providers.NAME]``."""

    kind: str | None = None
    base_url: Annotated[str, AfterValidator(_address)] | None = None
    key_env: _Variable | None = None
    models: dict[str, ModelTable] = {}
    keys: dict[_Variable, KeyTable] = {}


class JournalTable(_Table):
    """``[journal]``."""

    dir: Annotated[str, AfterValidator(_folder)] | None = None
    store: Annotated[str, AfterValidator(partial(_one_of, STORES))] | None = None
    durability: Annotated[str, AfterValidator(partial(_one_of, DURABILITIES))] | None = None


class File(_Table):
    """The whole file."""

    providers: dict[str, ProviderTable] = {}
    journal: JournalTable = JournalTable()
    batch: BatchTable = BatchTable()


_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "quota": QuotaTable,
    "retry": RetryTable,
    "timeout": TimeoutTable,
    "price": PriceTable,
    "journal": JournalTable,
    "batch": BatchTable,
}


_INSIDE: Final[Mapping[tuple[type[BaseModel], str], type[BaseModel]]] = {
    (File, "providers"): ProviderTable,
    (ProviderTable, "models"): ModelTable,
    (ProviderTable, "keys"): KeyTable,
    (KeyTable, "models"): KeyModelTable,
}
"""The tables whose own keys are names that the user gives, and what is under each name."""

_EXAMPLES: Final = {
    "quota": "{ rpm = 500 }",
    "retry": "{ attempts = 6 }",
    "timeout": "300 or { connect = 10, total = 300 }",
    "price": "{ input = 0.4, output = 1.6 }",
    "journal": '{ store = "answers" }',
    "batch": "{ poll = 30 }",
}


def validate(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the parsed content, and everything that is wrong with it."""
    problems = list(_wrong_names(data))
    try:
        return File.model_validate(data).model_dump(exclude_unset=True), problems
    except ValidationError as error:
        problems += [
            _problem(each) for each in error.errors(include_url=False, include_context=False)
        ]
        return {}, problems


def _problem(error: Any) -> Problem:
    place: Place = tuple(str(name) for name in error["loc"] if name != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        return Problem(place, _unknown(place, error["input"]))
    if kind in {"model_type", "dict_type"}:
        example = _EXAMPLES.get(place[-1], f"[{dotted(place)}]")
        return Problem(place, f"must be a table, such as {example}")
    if kind == "string_type":
        return Problem(place, "must be a text in quotes")
    return Problem(place, redact(error["msg"].removeprefix("Value error, ")))


def _unknown(place: Place, value: Any) -> str:
    """Return what was probably meant by a name that is not one of a table's keys."""
    *around, name = place
    table = _table_at(tuple(around))
    names = list(table.model_fields)
    if table in {ModelTable, KeyModelTable} and isinstance(value, dict):
        start = around.index("models") + 1
        head = ".".join([*around[start:], name, *_only_tables(value)])
        quoted = dotted((*around[:start], head))
        return f"unknown key; a model's name with a dot stands in quotes: [{quoted}]"
    if not around and name in installed_providers():
        return f"unknown key; did you mean [providers.{name}]?"
    if name.lower().replace("-", "_") in _SECRETS and "key_env" in names:
        return (
            "unknown key; a key is not written into the file: name its environment variable, "
            'such as key_env = "OPENAI_API_KEY"'
        )
    close = nearest(name, names)
    if close:
        return f"unknown key; did you mean {close!r}?"
    homes = [each for each in _SECTIONS if each in names and name in _SECTIONS[each].model_fields]
    if homes:
        return f"unknown key; it belongs into {' or '.join(homes)}: {homes[0]} = {{ {name} = ... }}"
    return f"unknown key; known are {', '.join(names)}"


def _only_tables(value: Mapping[str, Any]) -> Iterator[str]:
    """Yield the further parts of a name that was taken apart at its dots."""
    while len(value) == 1:
        ((name, inner),) = value.items()
        if name in ModelTable.model_fields or not isinstance(inner, dict):
            return
        yield name
        value = inner


def _table_at(place: Place) -> type[BaseModel]:
    table: type[BaseModel] = File
    names = iter(place)
    for name in names:
        if (table, name) in _INSIDE:
            table = _INSIDE[table, name]
            next(names, None)
        else:
            table = _SECTIONS[name]
    return table


def _wrong_names(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the providers' names and kinds."""
    providers = data.get("providers")
    if not isinstance(providers, dict):
        return
    native = sorted(installed_providers())
    for name, table in providers.items():
        place, kind = ("providers", name), table.get("kind") if isinstance(table, dict) else name
        if not _NAME.fullmatch(name):
            yield Problem(place, "a provider's name has letters, digits, '.', '_' and '-' only")
        elif isinstance(kind, str) and kind not in native:
            close = nearest(kind, native)
            hint = f"did you mean {close!r}?" if close else f"kinds are {', '.join(native)}"
            if isinstance(table, dict):
                yield Problem((*place, "kind"), f"no such kind: {redact(kind)!r}; {hint}")
        elif kind is not None and name in native and kind != name:
            text = f"{name!r} is a kind itself: leave this out, or take another name"
            yield Problem((*place, "kind"), text)
        elif kind is None and name not in native:
            close = nearest(name, native)
            hint = f"did you mean {close!r}? " if close else ""
            text = f'no such provider; {hint}One of your own needs a kind, such as kind = "openai"'
            yield Problem(place, text)
