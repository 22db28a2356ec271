"""Takes TypedDicts of `typing`, which pydantic refuses before Python 3.12."""

from __future__ import annotations

import functools
import operator
import sys
import types
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import TypedDict

IS_NEEDED: Final = sys.version_info < (3, 12)
_SAID: Final = ("__doc__", "__module__", "__qualname__", "__pydantic_config__")


def with_known_dicts(kind: Any) -> Any:
    """Return a type with the TypedDicts of typing_extensions.

    Those within lists, unions and other TypedDicts are replaced, too; not those of a class's
    fields.
    """
    return _replaced(kind, {}) if IS_NEEDED else kind


def _replaced(kind: Any, made: dict[Any, Any]) -> Any:
    if isinstance(kind, type) and type(kind).__module__ == "typing" and _is_typed_dict(kind):
        return made.get(kind) or _made(kind, made)
    arguments = get_args(kind)
    if not arguments or get_origin(kind) is Literal:
        return kind
    if get_origin(kind) is Annotated:
        first = _replaced(arguments[0], made)
        return kind if first is arguments[0] else Annotated[(first, *arguments[1:])]
    new = tuple(_replaced(each, made) for each in arguments)
    if all(one is other for one, other in zip(new, arguments, strict=True)):
        return kind
    if isinstance(kind, types.UnionType):
        return functools.reduce(operator.or_, new)
    copy = getattr(kind, "copy_with", None)
    origin: Any = get_origin(kind)
    return copy(new) if copy is not None else origin[new]


def _is_typed_dict(kind: type) -> bool:
    return hasattr(kind, "__required_keys__") and issubclass(kind, dict)


def _made(kind: Any, made: dict[Any, Any]) -> Any:
    """Return a TypedDict like another one; its fields come after it, as they may name it."""
    make: Any = TypedDict
    new = made[kind] = make(kind.__name__, {})
    for name in _SAID:
        if name in vars(kind):
            setattr(new, name, vars(kind)[name])
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner = _replaced(hint, made)
        if get_origin(hint) not in (Required, NotRequired):
            inner = (Required if name in kind.__required_keys__ else NotRequired)[inner]
        new.__annotations__[name] = inner
    required = {name for name, hint in new.__annotations__.items() if get_origin(hint) is Required}
    new.__required_keys__ = frozenset(required)
    new.__optional_keys__ = frozenset(new.__annotations__.keys() - required)
    return new
