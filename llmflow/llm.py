"""LLM: a model that is awaited, with its quota, retries and connections."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack, overload

from llmflow import telemetry
from llmflow.arguments import checked_arguments
from llmflow.call_options import (
    asked_by,
    check_output,
    checked_max_tokens,
    checked_options,
    checked_output,
    checked_temperature,
    known_fields,
)
from llmflow.calls.call import Route
from llmflow.calls.hedge import Hedge
from llmflow.calls.judge import REASKS, Judge, Validate, checked_reasks, checked_validate
from llmflow.calls.live import LiveMode
from llmflow.calls.mode_options import (
    Fallback,
    ModeName,
    ModeOptions,
    as_mode_options,
    current_mode,
)
from llmflow.config import Config, Settings, load_config
from llmflow.errors import ConfigurationError, UsageError
from llmflow.limits import Limiter
from llmflow.limits.gates import Gate, as_gates
from llmflow.limits.registry import limiter_for
from llmflow.llm_asking import Asking
from llmflow.llm_copying import Copying, checked_batch, reduced
from llmflow.mapping import Mappable
from llmflow.pricing import Price, price_of
from llmflow.provider import Provider, checked
from llmflow.retry import Retry
from llmflow.runs.catalog import machine_cache
from llmflow.runs.run import Run, current_run, named_run
from llmflow.transport import Timeout, connection_limit
from llmflow.types import AnswerT, OutputT, Quota

if TYPE_CHECKING:
    from llmflow.batch import Batch
    from llmflow.typed.methods import OutputMethod
    from llmflow.typed.output_type import OutputType

    class LLMOptions(TypedDict, total=False):
        """Options of an LLM beside its model and output type."""

        base_url: str | None
        api_key: str | None
        quota: Quota | None
        retry: Retry | None
        timeout: float | Timeout | None
        gate: Gate | Sequence[Gate] | None
        hedge: Hedge | None
        system: str | None
        max_tokens: int | None
        temperature: float | None
        options: Mapping[str, Any] | None
        journal: str | Run | None
        dedupe: bool | None
        cache: bool
        price: Price | None
        mode: ModeName | None
        deadline: float | str | None
        fallback: Fallback | None
        batch: Batch | None
        validate: Validate | None
        output_method: OutputMethod | None
        reasks: int
        config: Config | str | os.PathLike[str] | None

    class Changes(TypedDict, total=False):
        """Changes of `LLM.varied` beside the output type."""

        mode: ModeName | None
        deadline: float | str | None
        fallback: Fallback | None
        batch: Batch | None
        validate: Validate | None
        reasks: int | None


class LLM(Mappable, Asking[AnswerT], Copying):
    """A model at a provider, called at the provider's own speed.

    Await it with a text or with chat messages; the answer's text comes back. Any
    number of calls may run at once: admission by the quota, retries and
    connections are shared by all objects with the same provider, key and model.

    >>> llm = LLM("openai/gpt-6-luna", quota=Quota(rpm=500, tpm="200k"))
    >>> async def summarise(text):
    ...     return await llm(f"Summarize: {text}", max_tokens=200)

    What is not given comes from ``llmflow.toml``, else from the provider, else it is
    llmflow's own.

    Args:
        model: ``provider/model``, such as ``openai/gpt-6-luna``. ``sim/NAME`` is the
            built-in simulator. A provider that llmflow does not know goes to litellm.
            Or a provider object, such as `llmflow.testing.ScriptedProvider`, to which no
            configuration applies.
        base_url: where the API is, for a compatible server, up to and with ``/v1``.
        api_key: the key; by default the provider's environment variable.
        quota: what the provider allows, in place of all that is configured. Without it,
            limits are learned from its headers.
        retry: what happens after a failure, in place of all that is configured.
        timeout: seconds that one attempt may take, or a whole `Timeout`.
        gate: one or more further gates to pass before each attempt, such as an
            ``aiolimiter.AsyncLimiter``.
        hedge: send the slowest calls a second time, as a `Hedge` says: it costs money. None: never.
        system: instructions for every call.
        max_tokens: upper bound of every answer, in tokens.
        temperature: sampling temperature of every call.
        options: further fields for the body of every call, in the provider's dialect. Not
            ``model``, ``messages``, ``max_tokens`` or ``stream``: they are llmflow's own.
        journal: name of a `Run` that every call belongs to which is in no other, or an open run:
            what it was asked before is answered from there.
        dedupe: whether equal calls in flight at the same time share one; None: where the
            temperature is 0.
        cache: whether equal calls have one answer for ever, over all runs on this machine.
        price: what answers cost, in place of what is known or configured.
        mode: ``"batch"`` has every call answered by the provider's batch jobs, for half the price
            and in hours; ``"auto"`` decides; ``"parallel"`` asks at once, whatever the node or
            the run around the call says; None leaves it to them.
        deadline: when all is to be answered, such as ``"6h"``; the rest is asked in parallel.
        fallback: ``"parallel"`` for what batch jobs leave over, and where there is no batch API;
            ``"batch"`` where a daily quota is used up.
        batch: how calls become jobs, as a `Batch` says.
        validate: a function of a `Response` that raises, or returns False, if the answer is not
            accepted. It is then asked again, with what was wrong, or with twice the tokens where
            it was cut off: in batch mode in the next round. The same answer must always be judged
            alike.
        output_type: what every answer must be; see `complete`.
        output_method: how the provider is asked for that: ``"json_schema"``, ``"json_object"``,
            ``"tool"`` or ``"prompt"``; None: the first that it can do.
        reasks: how often a call is asked again whose answer is not accepted; 0: never.
        config: another configuration file than the one that is found, or a `Config`.

    Raises:
        ConfigurationError: a setting or the file is wrong, or nobody knows the model's provider.
    """

    @overload
    def __init__(
        self: LLM[str],
        model: str | Provider,
        *,
        output_type: None = ...,
        **options: Unpack[LLMOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: LLM[OutputT],
        model: str | Provider,
        *,
        output_type: type[OutputT],
        **options: Unpack[LLMOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: LLM[Any],
        model: str | Provider,
        *,
        output_type: Any,
        **options: Unpack[LLMOptions],
    ) -> None: ...
    @checked_arguments(text="llm = LLM(model), and then llm.run(prompt), or await llm(prompt)")
    def __init__(
        self,
        model: str | Provider,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        quota: Quota | None = None,
        retry: Retry | None = None,
        timeout: float | Timeout | None = None,
        gate: Gate | Sequence[Gate] | None = None,
        hedge: Hedge | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        options: Mapping[str, Any] | None = None,
        journal: str | Run | None = None,
        dedupe: bool | None = None,
        cache: bool = False,
        price: Price | None = None,
        mode: ModeName | None = None,
        deadline: float | str | None = None,
        fallback: Fallback | None = None,
        batch: Batch | None = None,
        validate: Validate | None = None,
        output_type: Any = None,
        output_method: OutputMethod | None = None,
        reasks: int = REASKS,
        config: Config | str | os.PathLike[str] | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        given["api_key"] = None if api_key is None else "***"
        for kind, value, example in (
            (Quota, quota, "Quota(rpm=500)"),
            (Retry, retry, "Retry(attempts=3)"),
            (Hedge, hedge, "Hedge()"),
            (Price, price, "Price(input=1, output=2)"),
        ):
            if value is not None and not isinstance(value, kind):
                name = kind.__name__
                raise ConfigurationError(
                    f"{name.lower()} must be a {name}, such as {example}; got {value!r}"
                )
        checked_batch(batch)
        for name, text in (("base_url", base_url), ("api_key", api_key), ("system", system)):
            if text is not None and not isinstance(text, str):
                raise ConfigurationError(f"{name} must be a string; got {type(text).__name__}")
        settings: Settings | None = None
        if isinstance(model, str):
            settings = load_config(config).settings(model, api_key=api_key)
            provider = settings.provider(base_url=base_url, api_key=api_key)
        elif isinstance(model, int | float | bytes | None):
            raise ConfigurationError(
                f"model must be a string such as 'openai/gpt-6-luna'; got {model!r}"
            )
        else:
            provider = checked(model)
        provider = asked_by(output_method, provider, settings)
        self._price = price
        self.provider: Provider = provider
        self.system = system
        self.validate = checked_validate(validate)
        self.reasks = checked_reasks(reasks)
        self._judge, self._output = Judge(), None
        self.max_tokens = checked_max_tokens(max_tokens)
        self.temperature = checked_temperature(temperature)
        self.options = checked_options({} if options is None else options)
        self.known_options = known_fields(provider)
        """The names that calls take as fields of the provider's body; None: any."""
        self.output_type = output_type
        default_quota, default_retry = provider.default_quota, provider.default_retry or Retry()
        default_timeout = Timeout()
        if settings is not None:
            default_quota = settings.quota_over(default_quota)
            default_retry = settings.retry_over(default_retry)
            default_timeout = settings.timeout_over(default_timeout)
        self.limiter: Limiter = limiter_for(
            provider.domain, quota, default=default_quota, max_in_flight=connection_limit()
        )
        self._mode = LiveMode(
            provider,
            limiter=self.limiter,
            retry=retry or default_retry,
            timeout=_as_timeout(timeout, default_timeout),
            gates=as_gates(gate),
            hedge=hedge,
        )
        self._run = None if journal is None else named_run(journal)
        self._route = Route(
            provider=provider,
            live=self._mode,
            limiter=self.limiter,
            price=functools.cache(self._find_price),  # it answers without a frame of its own
            overrides_cost=price is not None
            or (settings is not None and settings.price_over(None) is not None),
            cache=machine_cache() if cache else None,
            mode_options=as_mode_options(mode, deadline=deadline, fallback=fallback),
            batch=batch or _configured_batch(settings),
        )
        self._shares = True if cache else dedupe
        self.configured = settings
        """The settings from ``llmflow.toml``; None for a provider object."""
        self._settings = settings if api_key is None else None
        self._prepared = False
        self._given = given
        self._own = frozenset({*vars(self), "_own"})
        telemetry.auto()

    if TYPE_CHECKING:

        @overload
        def varied(self, *, output_type: None = ..., **changes: Unpack[Changes]) -> Self: ...
        @overload
        def varied(
            self, *, output_type: type[OutputT], **changes: Unpack[Changes]
        ) -> LLM[OutputT]: ...
        @overload
        def varied(self, *, output_type: Any, **changes: Unpack[Changes]) -> LLM[Any]: ...
        def varied(self, **changes: Any) -> Any: ...  # noqa: D102

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self, LLM, self._given, self._own)

    def __repr__(self) -> str:
        return f"LLM({self.model!r}, quota={self.limiter.quota!r})"

    @property
    def model(self) -> str:
        """The model string, ``provider/model``."""
        return f"{self.provider.name}/{self.provider.model}"

    @property
    def output_type(self) -> OutputType | None:
        """The type of its answers; None for texts."""
        return self._output

    @output_type.setter
    def output_type(self, given: Any) -> None:
        output = None if given is None else checked_output(given)
        check_output(output, self.options, self.provider)
        self._output = output

    @property
    def price(self) -> Price | None:
        """The price per million tokens, in US dollars; None if unknown."""
        return self._route.price()

    def _find_price(self) -> Price | None:
        if self._price is not None:
            return self._price
        known = price_of(self.model, base_url=self._route.endpoint or None)
        return known if self.configured is None else self.configured.price_over(known)

    @property
    def batch(self) -> Batch | None:
        """The settings of its batch jobs; None for the defaults."""
        batch: Batch | None = self._route.batch
        return batch

    @property
    def hedged(self) -> int:
        """The number of hedged calls; see `Hedge`."""
        hedging = self._mode.hedging
        return 0 if hedging is None else hedging.hedged

    def prepare(self) -> None:
        """Check key, model and extras now instead of at the first call.

        Raises:
            ConfigurationError: something is missing; the message says what to do.
        """
        if not self._prepared:
            if self._settings is not None:
                self._settings.check_key()
            self.provider.prepare()
            self._prepared = True

    async def collect(self) -> None:
        """Resume earlier sessions' batch jobs of this model and run.

        The first call of a session does so, too; `Run.settled` waits for them.

        Raises:
            UsageError: there is no run around the call.
            BatchUnsupportedError: the provider has no batch API.
            JournalError: a job's file is gone or damaged.
        """
        run = self.run_around
        if run is None:
            raise UsageError('collect needs a run around it: async with Run("name"): ...')
        self.prepare()
        run.session.batches.adopt(self._route, self.mode_options or ModeOptions(mode="batch"))

    @property
    def batch_queue(self) -> str:
        """The identity of its batch queue, as job records hold it."""
        from llmflow.batch.batch_mode import identity_of

        return identity_of(self._route).key

    @property
    def run_around(self) -> Run | None:
        """The run that a call here belongs to, or None."""
        return current_run() or self._run

    @property
    def mode_options(self) -> ModeOptions | None:
        """The mode that a call would be in here; None: parallel."""
        run, options = self.run_around, self._route.mode_options or current_mode.get()
        return options or (None if run is None else run.mode_options)


def _configured_batch(settings: Settings | None) -> Batch | None:
    if settings is None or not settings.batch:
        return None
    from llmflow.batch import Batch

    try:
        return Batch(**settings.batch)
    except ConfigurationError as error:
        where = next(iter(settings.origins[f"batch.{name}"] for name in settings.batch))
        raise ConfigurationError(f"{error} (batch settings, {where})") from error


def _as_timeout(value: float | Timeout | None, default: Timeout) -> Timeout:
    if value is None:
        return default
    return value if isinstance(value, Timeout) else replace(default, total=value)
