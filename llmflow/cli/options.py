"""Kinds of option values that several commands take."""

from __future__ import annotations

from typing import Any

import click

from llmflow.errors import ConfigurationError
from llmflow.types import parse_amount


class Amount(click.ParamType[float]):
    """A number above 0, such as 500, 10k or 2M."""

    name = "AMOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number, or say how one is written."""
        name = param.name if param is not None and param.name else "amount"
        try:
            return parse_amount(value, name=name)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


AMOUNT = Amount()

CONFIG = click.option(
    "--config",
    metavar="FILE",
    help="Configuration file; by default LLMFLOW_CONFIG, or llmflow.toml here or above.",
)
"""The option of every command that calls a model."""
