"""The part of a provider that asks for answers of a schema."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from llmflow.errors import ProviderError
from llmflow.parts import OutputSchema
from llmflow.types import Request

if TYPE_CHECKING:
    from llmflow.typed.methods import OutputMethods
    from llmflow_providers.typed_output import TypedOutput


class SchemaAsking(ABC):
    """Mixin of providers that can be asked for answers of a schema.

    What it needs is imported and made when a call wants a schema for the first time.
    """

    sends = frozenset({OutputSchema.kind})

    @cached_property
    def typed(self) -> TypedOutput:
        """The way to ask its server for schemas."""
        return self._typed_output()

    @abstractmethod
    def _typed_output(self) -> TypedOutput:
        """Make the way to ask its server for schemas."""

    @property
    def outputs(self) -> OutputMethods:
        """Its methods of asking for schemas; others may be set."""
        return self.typed.methods

    @outputs.setter
    def outputs(self, methods: OutputMethods) -> None:
        own = copy.copy(self.typed)  # a copy of the provider has the same one
        own.methods = methods
        self.typed = own

    def refuses_output(self, error: ProviderError, request: Request) -> bool:
        """Return whether the server refuses how a schema was sent.

        Only the error's words count: since the request was sent, another method may be in use.
        """
        from llmflow_providers.refused_output import refuses_output

        return refuses_output(error, request)
