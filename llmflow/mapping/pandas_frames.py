"""Frames and series of pandas."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmflow.mapping.frame_table import (
    FLOATS,
    INTEGERS,
    UNNAMED,
    Columns,
    Kinds,
    Table,
    built_or_text,
    checked_names,
    clean,
)
from llmflow.rows.cells import is_missing
from llmflow.rows.records import free_names
from llmflow.typed.columns import ColumnKind, Scalar

_DAYS: Final = "datetime64[us]"
_UTC: Final = "datetime64[us, UTC]"
_TIMES: Final = frozenset({_DAYS, _UTC})
_DTYPES: Final[Mapping[str, str]] = {
    "string": "string",
    "integer": "Int64",
    "number": "Float64",
    "boolean": "boolean",
    "date": _DAYS,
    "datetime": _UTC,
}
"""Types of columns; times of day, decimals, lists and objects are Python objects."""
_MANY: Final = 20


class PandasTable(Table):
    """A frame of pandas, or a series as one."""

    json_as_text = False

    def __init__(self, items: Any, *, single: bool) -> None:
        super().__init__(items)
        if single:
            self._values = items
            self._frame = items.to_frame(name=UNNAMED if items.name is None else items.name)
        else:
            self.columns = checked_names(list(items.columns))

    def rows(self) -> Iterator[Any]:
        """Iterate over rows."""
        names = self.columns
        if names is None:
            for value in self._values:
                yield None if is_missing(value) else value
            return
        if not names:  # then itertuples gives no rows at all
            yield from ({} for _ in range(len(self)))
            return
        for values in self._frame.itertuples(index=False, name=None):
            yield {
                name: None if is_missing(value) else value
                for name, value in zip(names, values, strict=True)
            }

    def joined(self, columns: Columns, kinds: Kinds | None = None) -> Any:
        """Return the frame with added columns."""
        pandas: Any = sys.modules["pandas"]
        frame = self._frame
        taken = free_names([name for name in frame.columns if isinstance(name, str)], columns)
        out = frame.rename(columns=taken)
        added = {
            name: _typed(pandas, name, kinds[name], values, out.index)
            if kinds and name in kinds
            else _own(pandas, name, values, out.index)
            for name, values in columns.items()
        }
        if len(added) > _MANY and out.columns.nlevels == 1:  # one by one they make a slow frame
            both = pandas.concat([out, pandas.DataFrame(added, index=out.index)], axis=1)
            return both.__finalize__(out)
        for name, values in added.items():
            out[name] = values
        return out


def _own(pandas: Any, name: str, values: list[Any], index: Any) -> Any:
    # Texts as objects, so that what is missing is None, and false, in every version.
    kind = "Int64" if name in INTEGERS else "float64" if name in FLOATS else object
    return pandas.Series(clean(values) if kind is object else values, index=index, dtype=kind)


def _typed(pandas: Any, name: str, kind: ColumnKind, values: list[Any], index: Any) -> Any:
    dtype = _DTYPES.get(kind.name, object) if isinstance(kind, Scalar) else object

    def build(values: list[Any]) -> Any:
        if dtype not in _TIMES:
            return pandas.Series(values, index=index, dtype=dtype)
        # By NumPy, as pandas' own way goes by nanoseconds, which end in 2262, in old versions.
        plain = [each and each.replace(tzinfo=None) for each in values] if dtype == _UTC else values
        times = sys.modules["numpy"].array(plain, dtype=_DAYS)
        made = pandas.Series(times, index=index)
        return made.dt.tz_localize("UTC") if dtype == _UTC else made

    def build_text(texts: list[str | None]) -> Any:
        return pandas.Series(texts, index=index, dtype=object)

    return built_or_text(build, build_text, name, values)
