"""Copies of an LLM: pickled, in this process, or with changed settings.

What is carried are the settings that were given in code. Connections and limits are those of
the process where the copy is; what the configuration and the environment say is looked up
there, too. Keys are not carried.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from llmflow.calls.judge import Validate, checked_reasks, checked_validate
from llmflow.calls.mode_options import Fallback, ModeName, ModeOptions, as_mode_options
from llmflow.errors import ConfigurationError, MissingKeyError
from llmflow.runs.run import Run

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.calls.call import Route

# What may have been set anew since the object was made.
_LIVE: Final = (
    *("system", "max_tokens", "temperature", "options"),
    *("validate", "reasks", "output_type"),
)


class Copying:
    """Gives an LLM its copies."""

    provider: Any
    validate: Validate | None
    reasks: int
    output_type: Any
    _given: dict[str, Any]
    _own: frozenset[str]
    _route: Route

    @property
    def mode_options(self) -> ModeOptions | None:
        """The mode that a call would be in."""
        raise NotImplementedError

    def __copy__(self) -> Self:
        # Another object with the same provider, quota and connections.
        twin = type(self).__new__(type(self))
        twin.__dict__.update(vars(self))
        return twin

    def varied(
        self,
        *,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        batch: Batch | None = None,
        validate: Validate | None = None,
        output_type: Any = None,
        reasks: int | None = None,
    ) -> Self:
        """Return an LLM with other settings, sharing quota and connections.

        Args:
            mode: in place of what is chosen here and around it, as for the rest.
            deadline: when all is to be answered.
            fallback: the other way, for what the mode leaves over.
            batch: how calls become jobs.
            validate: what is demanded of every answer.
            output_type: what every answer must be.
            reasks: how often a call is asked again whose answer is not accepted.

        Raises:
            ConfigurationError: one of them is wrong.
        """
        changed = {"mode": mode, "deadline": deadline, "fallback": fallback, "batch": batch}
        changed = {name: value for name, value in changed.items() if value is not None}
        around, options = self.mode_options, self._route.mode_options
        if mode is not None or deadline is not None or fallback is not None:
            if mode is None and around is not None:
                mode, fallback = around.mode, fallback or around.fallback
                deadline = around.deadline if deadline is None else deadline
            options = as_mode_options(mode, deadline=deadline, fallback=fallback)
        twin, batch = copy.copy(self), checked_batch(batch) or self._route.batch
        twin._route = replace(self._route, mode_options=options, batch=batch)
        twin._given = {**self._given, **changed}
        if validate is not None:
            twin.validate = checked_validate(validate)
        if output_type is not None:
            twin.output_type = output_type
        if reasks is not None:
            twin.reasks = checked_reasks(reasks)
        return twin


def reduced(
    llm: Copying, base: type[Any], given: Mapping[str, Any], own: frozenset[str]
) -> tuple[Any, tuple[Any, ...], dict[str, Any] | None]:
    """Return what `pickle` and `copy.deepcopy` make a copy of.

    It was made by `base` with the arguments `given`, and has its `own` attributes beside those
    that the user's code has added.

    Raises:
        ConfigurationError: an argument cannot be carried; the message names it.
    """
    settings = {
        name: getattr(llm, name) if name in _LIVE else value for name, value in given.items()
    }
    had_key = settings.pop("api_key") is not None
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        _check(name, value)
    added = {name: value for name, value in vars(llm).items() if name not in own}
    return rebuilt, (type(llm), base, settings, had_key), added or None


def rebuilt(kind: type[Any], base: type[Any], settings: dict[str, Any], had_key: bool) -> Any:
    """Make an LLM of what `reduced` has carried.

    Raises:
        MissingKeyError: it had a key that was given in code, and none is found here.
        ConfigurationError: as for a new one.
    """
    llm: Any = object.__new__(kind)
    base.__init__(llm, **settings)
    if had_key:
        _find_key(llm)
    return llm


def checked_batch(batch: Any) -> Batch | None:
    """Return batch settings.

    Raises:
        ConfigurationError: they are none.
    """
    if batch is not None and not hasattr(batch, "enqueued_tokens"):
        raise ConfigurationError(f"batch must be a Batch, such as Batch(); got {batch!r}")
    found: Batch | None = batch
    return found


def _check(name: str, value: Any) -> None:
    if name == "gate":
        raise _refused(name, "gates belong to this process: give the copy one of its own")
    if isinstance(value, Run):
        raise _refused(name, "a Run belongs to this process: give the run's name")
    if name == "model" and (getattr(value, "key", None) or getattr(value, "_key", None)):
        raise _refused(name, "the provider holds a key: give a model string instead")
    if name == "output_type":
        value = getattr(value, "type", value)  # what was given, of an `OutputType`
    try:
        pickle.dumps(value)
    except Exception as error:
        if name == "output_type":
            raise _refused(name, "give a type of a module, not one made in place") from error
        if callable(value):
            raise _refused(name, "give a function of a module, not one made in place") from error
        raise _refused(name, f"it cannot be pickled ({type(error).__name__})") from error


def _refused(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"an LLM with {name}=... cannot be pickled or copied deeply: {why}")


def _find_key(llm: Any) -> None:
    """See to it that there is a key in place of the one that was left behind."""
    llm.prepare()
    variable = getattr(llm.provider, "key_variable", None)
    if variable is not None and getattr(llm.provider, "key", None) is None:
        raise MissingKeyError(
            f"{llm.model} was copied without the key that was given in code: set the environment "
            f"variable {variable} where the copy is used"
        )
