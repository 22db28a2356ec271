"""Output types: a schema for answers, and values made of them."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, Protocol

from llmflow.errors import ConfigurationError
from llmflow.parts import OutputSchema
from llmflow.typed.answer_json import candidates, json_text, target_of, tidied
from llmflow.typed.columns import Column, columns_of
from llmflow.typed.levels import levels, most_levels
from llmflow.typed.mismatch import RESPONSE, AnswerMismatch, mismatch, problem

__all__ = ["AnswerMismatch", "OutputType", "as_output_type"]

_MOST_KEPT: Final = 512
_TYPES: Final = "a type such as a pydantic model, dataclass, Literal or list[str], or a JSON schema"
_FIT_FOR_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")


class _Check(Protocol):
    """What reads answers: pydantic, or a JSON schema."""

    wraps: bool
    errors: tuple[type[Exception], ...]

    @property
    def schema(self) -> Mapping[str, Any]: ...

    def read(self, text: str) -> Any: ...
    def read_unwrapped(self, text: str) -> Any: ...
    def row(self, value: Any) -> dict[str, Any]: ...
    def problems(self, error: Exception, data: Any) -> Any: ...


class OutputType:
    """The type of answers, with its JSON schema. Made by `as_output_type`.

    >>> reviews = as_output_type({"type": "object", "properties": {"score": {"type": "integer"}}})
    >>> reviews.parse('Here you are: {"score": 4}')
    {'score': 4}

    Args:
        given: what the user gave.
        name: its name for the model.
        check: what reads answers.
    """

    __slots__ = (
        *("_check", "_most_levels", "_read", "columns", "name", "output", "row", "schema"),
        *("type", "wraps"),
    )

    def __init__(self, given: Any, name: str, check: _Check) -> None:
        self.type = given
        self.name = name
        self.schema: Mapping[str, Any] = check.schema
        self.wraps = check.wraps
        self.output = OutputSchema(schema=self.schema, name=name)
        self.columns: tuple[Column, ...] = columns_of(self.schema)
        self.row = check.row
        """Return a value as plain JSON data by column."""
        self._most_levels = most_levels(self.schema)
        self._check = check
        self._read = check.read

    def __repr__(self) -> str:
        return f"OutputType({self.name})"

    def __reduce__(self) -> Any:
        if isinstance(self.type, Mapping):
            return _restored, (self.name, dict(self.schema), self.wraps)
        return as_output_type, (self.type,)

    @classmethod
    def restored(cls, *, name: str, schema: Mapping[str, Any], wraps: bool = False) -> OutputType:
        """Return the type of a stored name and schema.

        Its values are JSON data.

        Args:
            name: the name, exactly.
            schema: the logical schema, an object at the root.
            wraps: whether the type was wrapped: then values are those of "response".

        Raises:
            ConfigurationError: it is no schema.
        """
        from llmflow.typed.schema_check import SchemaCheck

        return cls(schema, name, SchemaCheck(schema, wrapped=wraps))

    def parse(self, text: str) -> Any:
        """Return the value of an answer.

        Code fences, text around the JSON, and null for what is optional are taken. So is the
        bare value of a type that is no object.

        Raises:
            AnswerMismatch: the answer does not fit; the text says where.
        """
        self._check_levels(text)
        try:
            if "NaN" not in text and "Infinity" not in text:  # which are no JSON
                try:
                    return self._read(text)
                except self._check.errors:
                    pass
                except UnicodeEncodeError:  # half of a surrogate pair
                    pass
            return self._read_leniently(text.encode("utf-8", "replace").decode())
        except (AnswerMismatch, KeyboardInterrupt, GeneratorExit):
            raise
        # In a synchronous check CancelledError cancels nothing, and SystemExit must not end a run.
        except BaseException as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise mismatch([problem("", f"the check of the type raised {said}")]) from error

    def _read_leniently(self, text: str) -> Any:
        from pydantic_core import from_json

        check = self._check
        first: tuple[Exception, Any] | None = None
        found: list[Any] = []
        for each in candidates(text):
            try:
                data = from_json(each, allow_inf_nan=False)
            except ValueError:
                continue
            self._check_levels(each)  # after an odd quote, those of the whole text are no brackets
            found.append(data)
            try:
                return check.read(json_text(tidied(data, self.schema)))
            except check.errors as error:
                first = first or (error, data)
        if self.wraps:
            if not found and self._is_a_word():
                found = [text.strip()]
            for data in found:
                if data == {}:
                    continue  # the field is missing, and this is no empty dictionary
                bare = tidied({RESPONSE: data}, self.schema)[RESPONSE]
                try:
                    return check.read_unwrapped(json_text(bare))
                except check.errors:
                    continue
        if first is not None:
            raise mismatch(check.problems(*first)) from None
        raise mismatch([_not_json(text)])

    def _check_levels(self, text: str) -> None:
        most = self._most_levels
        if most is not None and levels(text) > most:
            raise AnswerMismatch(f"nested too deeply: at most {most} levels are checked")

    def _is_a_word(self) -> bool:
        """Return True if the wrapped value is one of some: then a bare word is no other text."""
        inner = target_of(self.schema["properties"][RESPONSE], self.schema)
        return isinstance(inner, Mapping) and ("enum" in inner or "const" in inner)


def _restored(name: str, schema: Mapping[str, Any], wraps: bool) -> OutputType:
    return OutputType.restored(name=name, schema=schema, wraps=wraps)


def _not_json(text: str) -> str:
    from pydantic_core import from_json

    if not text.strip():
        return "the answer is empty; JSON is wanted"
    try:
        from_json(text.strip(), allow_inf_nan=False)
    except ValueError as error:
        return f"not valid JSON: {error}"
    return "not valid JSON"


_lock = threading.Lock()
_known: dict[Any, OutputType] = {}
_by_identity: dict[int, tuple[Any, Any, OutputType]] = {}


def as_output_type(given: Any) -> OutputType:
    """Return the output type of a Python type or JSON schema.

    Equal ones have the same.

    >>> as_output_type(int).schema["properties"]
    {'response': {'type': 'integer'}}

    Args:
        given: a pydantic model, dataclass, TypedDict, NamedTuple, Literal, enum, plain type, or a
            list, tuple, dict or union of them; or a JSON schema as a dict; or an `OutputType`.

    Raises:
        ConfigurationError: it has no JSON schema, or is none.
    """
    if type(given) is OutputType:
        return given
    kept = _by_identity.get(id(given))
    if kept is not None and kept[0] is given and (kept[1] is None or kept[1] == given):
        return kept[2]
    with _lock:
        return _kept(given)


def _kept(given: Any) -> OutputType:
    is_schema = isinstance(given, Mapping)
    key = _key(given)
    found = None if key is None else _known.get(key)
    if found is None:
        found = _made(given)
        if key is not None:
            if len(_known) >= _MOST_KEPT:
                _known.pop(next(iter(_known)))
            _known[key] = found
    if len(_by_identity) >= _MOST_KEPT:
        _by_identity.pop(next(iter(_by_identity)))
    copy = dict(found.type) if is_schema else None
    _by_identity[id(given)] = (given, copy, found)
    return found


def _key(given: Any) -> Any:
    """Return what is equal for equal types, or None."""
    if isinstance(given, Mapping):
        import orjson

        try:
            return orjson.dumps(dict(given))
        except (TypeError, ValueError, RecursionError):
            return None
    try:
        hash(given)
    except TypeError:
        return None
    return given, repr(given)  # int | str equals str | int


def _made(given: Any) -> OutputType:
    if isinstance(given, Mapping):
        from copy import deepcopy

        from llmflow.typed.schema_check import SchemaCheck

        checked = SchemaCheck(given)
        kept = deepcopy(dict(given))
        return OutputType(kept, _name(kept.get("title")), checked)
    _refuse(given)
    from llmflow.typed.pydantic_type import PydanticCheck

    check = PydanticCheck(given)
    own = isinstance(given, type) and given.__module__.split(".")[0] not in sys.stdlib_module_names
    return OutputType(given, _name(given.__name__ if own else None), check)


def _name(given: Any) -> str:
    name = _FIT_FOR_NAMES.sub("_", given).strip("_")[:64] if isinstance(given, str) else ""
    return name or "answer"


def _refuse(given: Any) -> None:
    """Raise an error for what is no type, or accepts any answer."""
    if given is Any or given is object:
        raise ConfigurationError(
            f"output_type {'Any' if given is Any else 'object'} accepts any answer; give {_TYPES}"
        )
    if given is None or given is type(None):
        raise ConfigurationError(f"output_type None is not a type of answers; give {_TYPES}")
    if isinstance(given, (str, bytes, int, float, list, tuple, set)):
        raise ConfigurationError(
            f"output_type must be {_TYPES}; got {type(given).__name__} {str(given)[:60]!r}"
        )
    if isinstance(given, type) or hasattr(given, "__origin__") or hasattr(given, "__value__"):
        return
    module = type(given).__module__
    if module in ("typing", "types", "typing_extensions") and not _is_function(given):
        return
    if _is_function(given):
        name = getattr(given, "__name__", "a function")
        raise ConfigurationError(
            f"output_type is the function {name}; give {_TYPES}; to check answers by a function, "
            "use validate="
        )
    raise ConfigurationError(
        f"output_type is an object of {type(given).__name__}; give the class {type(given).__name__}"
    )


def _is_function(given: Any) -> bool:
    return type(given).__name__ in ("function", "method", "builtin_function_or_method", "partial")
