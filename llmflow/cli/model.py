"""Model of a task: llmflow.toml, overridden by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmflow.cli.task import Task
    from llmflow.config.settings import Settings
    from llmflow.jobs.reachability import Reachability
    from llmflow.llm import LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """The model of a task, and its settings.

    Args:
        llm: what is asked; a run prepares it, a plan has no need to.
        contact: notes whether the provider was reached.
        settings: what the configuration says of the model.
        given: the limits that options set.
    """

    llm: LLM
    contact: Reachability
    settings: Settings
    given: Mapping[str, Any]


def resolve_model(task: Task) -> ResolvedModel:
    """Return the LLM of a task.

    Raises:
        ConfigurationError: the model, an option or the configuration is wrong.
    """
    from llmflow.cli.options import provider_options
    from llmflow.config import load_config
    from llmflow.errors import ConfigurationError
    from llmflow.jobs.reachability import Reachability
    from llmflow.llm import LLM
    from llmflow.types import Quota

    config, contact = load_config(), Reachability()
    settings = config.settings(task.model)
    # Each option takes the place of its own setting, not of the whole quota.
    limits = {"rpm": task.rpm, "tpm": task.tpm}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    quota = replace(settings.quota_over(None) or Quota(), **given) if given else None
    provider = settings.provider(base_url=task.base_url)
    marks: dict[str, Any] = {}
    if task.cache_system is not None:
        if getattr(provider, "marked_prefix", None) is None:
            raise ConfigurationError(
                f"--cache-system is of no use with {task.model}: it is for providers that want "
                "prompts to be marked for their cache; leave it out"
            )
        marks = {"cache_system": task.cache_system}
    llm = LLM(
        task.model,
        base_url=task.base_url,
        quota=quota,
        retry=contact.policy(settings.retry_over(provider.default_retry)),
        system=task.system,
        max_tokens=task.max_tokens,
        temperature=task.temperature,
        dedupe=True if task.dedupe else None,
        cache=task.cache,
        config=config,
        timeout=task.timeout,
        options={**provider_options(task.option), **marks},
    )
    return ResolvedModel(llm=llm, contact=contact, settings=settings, given=given)
