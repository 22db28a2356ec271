"""Unknown arguments of calls: suggests the name that was meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, Final, ParamSpec, TypeVar

from llmflow.errors import UnknownArgumentError, UsageError, redact
from llmflow.rate_limits import RATE_LIMITS

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LLM: Final = "LLM(...)"
_MAP: Final = "llm.map(...)"
_RUN: Final = "Run(...)"
_NODE: Final = "a node"
_ASYNC_NODE: Final = "an async node"
_CALL: Final = "llm(...)"
_INFERENCE_NODE: Final = "BatchInferenceNode(...)"

_OF_LLM: Final = (
    *("base_url", "api_key", "quota", "retry", "hedge"),
    *("journal", "dedupe", "cache", "price", "config"),
)
_OF_RUN: Final = (
    *("name", "budget", "folder", "store"),
    *("retry_failed", "on_event", "about", "total"),
)
_OF_NODES: Final = ("max_retries", "wait", "exponential_backoff", "max_wait", "concurrency_limit")

BELONGS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_OF_LLM, (_LLM,)),
    **dict.fromkeys(("timeout", "gate"), (_LLM, _ASYNC_NODE)),
    **dict.fromkeys(("mode", "deadline", "fallback"), (_LLM, _MAP, _RUN, _ASYNC_NODE)),
    "batch": (_LLM, _MAP),
    "validate": (_LLM, _MAP, _ASYNC_NODE),
    "output_type": (_LLM, _CALL, _MAP, _INFERENCE_NODE),
    "reasks": (_LLM, _MAP, _INFERENCE_NODE),
    "output_method": (_LLM,),
    **dict.fromkeys(("system", "max_tokens", "temperature", "options"), (_LLM, _CALL, _MAP)),
    **dict.fromkeys(("prompt", "ordered", "concurrency"), (_MAP,)),
    "on_error": (_MAP, _NODE),
    "progress": (_MAP, _RUN),
    **dict.fromkeys(_OF_RUN, (_RUN,)),
    **dict.fromkeys(_OF_NODES, (_NODE,)),
}
"""The names of llmflow's own arguments, and who takes them."""

_MEANT: Final = {
    **{
        name: f"write quota=Quota({name}=...), an argument of {_LLM}"
        for name in (*RATE_LIMITS, "max_concurrent")
    },
    "usd": f"write budget=Budget(usd=...), an argument of {_RUN}",
    "attempts": f"write retry=Retry(attempts=...), an argument of {_LLM}",
    "extra_body": "write options={...}",
    "max_workers": f"concurrency belongs to {_MAP}",
}
"""What to write for names that other libraries have, and for those of value objects."""

_SAME: Final = {
    **dict.fromkeys(("dollars", "cost", "max_cost", "max_usd", "limit"), ("usd",)),
    **dict.fromkeys(
        ("max_retries", "retries", "max_attempts", "tries"), ("attempts", "max_retries")
    ),
    **dict.fromkeys(("requests", "requests_per_minute", "rps"), ("rpm",)),
    **dict.fromkeys(("tokens", "tokens_per_minute"), ("tpm",)),
    **dict.fromkeys(("concurrency", "max_workers"), ("max_concurrent", "concurrency_limit")),
    "seconds": ("total",),
    "items": ("requests",),
    "rows": ("requests",),
}
"""What other libraries call arguments of ours: where one of these is taken, it was meant."""

# Names that a provider's body may have, too: not refused where nobody knows its fields.
_ALSO_A_PROVIDERS: Final = frozenset({"store", "name"})


def refuse(
    name: str, *, place: str, own: Iterable[str], known: Collection[str] = (), fields: bool = False
) -> UnknownArgumentError:
    """Return the error that says what to write instead of a name.

    >>> str(refuse("concurrency", place="llm(...)", own=["system"], fields=True))
    "llm(...) takes no 'concurrency': concurrency belongs to llm.map(...)"
    >>> str(refuse("sytem", place="llm(...)", own=["system"]))
    "llm(...) takes no 'sytem': did you mean 'system'?"

    Args:
        name: what was written.
        place: who got it, such as ``llm(...)``.
        own: the names that it takes.
        known: the provider's fields that it takes, too.
        fields: whether there is an ``options`` for other fields of the provider.
    """
    own = list(own)
    same = [each for each in _SAME.get(name, ()) if each in own]
    near = same[0] if same else _nearest(name, [*own, *known]) or _nearest(name, BELONGS)
    if same or (name in BELONGS and near in own):
        remedy = f"did you mean {near!r}?"
    elif name in BELONGS:
        near, remedy = None, _belongs(name)
    elif name in _MEANT:
        near, remedy = None, _MEANT[name]
    elif near is not None:
        elsewhere = "" if near in own or near in known else f" {_belongs(near)}"
        remedy = f"did you mean {near!r}?{elsewhere}"
    else:
        remedy = f"its arguments are {', '.join(own)}"
    end = "" if not fields or name in BELONGS or name in _MEANT else _in_options(name, remedy)
    return UnknownArgumentError(
        f"{place} takes no {redact(name)!r}: {remedy}{end}", name=name, nearest=near
    )


def belongs_elsewhere(name: str) -> bool:
    """Return whether a name is llmflow's own, never a provider's field."""
    return name in BELONGS and name not in _ALSO_A_PROVIDERS


def checked_arguments(
    place: str = "",
    *,
    first: str | None = None,
    text: str | None = None,
    options: type | None = None,
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a function explain what is wrong with unknown arguments.

    Args:
        place: what it is called in messages; by default the class that is made.
        first: the name that a first value without one is probably meant for.
        text: what to write instead, where that value is a text.
        options: a TypedDict of further ones, which it takes as ``**options``.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        code: Any = function.__code__
        most = code.co_argcount
        further = {} if options is None else options.__annotations__
        names = (*code.co_varnames[: most + code.co_kwonlyargcount], *further)
        known = frozenset(names)
        own = 1 if names[0] == "self" else 0

        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            if len(args) <= most and kwargs.keys() <= known:
                return function(*args, **kwargs)
            where = place or f"{type(args[0]).__name__}(...)"
            if len(args) > most:
                if text is not None and isinstance(args[most], str):
                    raise UnknownArgumentError(f"{where} takes no text there: write {text}")
                named = names[most:] if first is None else (first, *names[most:])
                raise by_name(where, names[own:most], dict.fromkeys(named), args[most:])
            wrong = next(name for name in kwargs if name not in known)
            raise refuse(wrong, place=where, own=names[own:])

        if further:
            checked.__signature__ = _expanded(function, further)  # type: ignore[attr-defined]
        return checked

    return decorate


def _expanded(function: Callable[..., Any], options: dict[str, Any]) -> inspect.Signature:
    """Return a signature with the names of its ``**options``, for `help`."""
    found = inspect.signature(function)
    *own, _ = found.parameters.values()
    more = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in options.items()
    )
    return found.replace(parameters=[*own, *more])


def values_by_name(first: str | None = None) -> Callable[[type[_T]], type[_T]]:
    """Make a dataclass explain its syntax when a value has no name.

    Args:
        first: the name that a first value is probably meant for; by default the first one.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        checked = checked_arguments(f"{cls.__name__}(...)", first=first)
        cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]
        return cls

    return decorate


def by_name(
    place: str, positional: Iterable[str], named: Iterable[str], given: Iterable[Any]
) -> UnknownArgumentError:
    """Return the error for values that were given without their names.

    >>> str(by_name("Budget(...)", (), ("usd", "tokens"), (5,)))
    'Budget(...) takes its values by name: write Budget(usd=5)'
    """
    names, words = list(named), list(positional)
    for value in given:
        kind = type(value).__name__.lower()
        name = kind if kind in names else next(iter(names), None)
        if name is None:
            break
        names.remove(name)
        words.append(f"{name}={_shown(value)}")
    write = place.replace("...", ", ".join(words))
    what = "the rest" if positional else "its values"
    return UnknownArgumentError(f"{place} takes {what} by name: write {write}")


def checked_flag(name: str, value: Any) -> bool:
    """Return what is True or False.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False; got {redact(repr(value))}")
    return value


def checked_total(value: Any) -> int | None:
    """Return the number of calls or items; None if unknown.

    Raises:
        UsageError: it is no whole number of at least 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise UsageError(f"total must be a whole number, such as len(items); got {value!r}")
    return value


def _shown(value: Any) -> str:
    # A text may be a key.
    return repr(value) if isinstance(value, bool | int | float) or value is None else "..."


def _belongs(name: str) -> str:
    places = BELONGS[name]
    where = places[0] if len(places) == 1 else f"{', '.join(places[:-1])} or {places[-1]}"
    return f"{name} belongs to {where}"


def _in_options(name: str, remedy: str) -> str:
    start = " A" if remedy.endswith("?") else "; a"
    field = "{" + f'"{redact(name)}": ...' + "}"
    return f"{start} field of the provider's that llmflow does not know goes into options={field}"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    close = get_close_matches(name.lower().replace("-", "_"), sorted(names), n=1, cutoff=0.7)
    return close[0] if close else None
