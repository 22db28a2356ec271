"""Output types by name: of a file, module, or one line."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Final, Literal

from llmflow.errors import ConfigurationError, redact
from llmflow.typed.one_line import KNOWN, from_one_line
from llmflow.typed.output_type import OutputType, as_output_type

_MODULE: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PLAIN: Final = frozenset(
    ("str", "string", "int", "integer", "float", "number", "bool", "boolean", "date", "datetime")
)


def kind_of(text: str) -> Literal["file", "module", "one_line"]:
    """Return what a name of an output type names.

    >>> kind_of("schema.json"), kind_of("shop.types:Review"), kind_of("score: int")
    ('file', 'module', 'one_line')
    """
    text = text.strip()
    if text.endswith(".json") or (":" not in text and ("/" in text or _is_file(text))):
        return "file"
    if _MODULE.fullmatch(text):
        module, _, name = text.partition(":")
        # `score:int` is a field, unless there is such a module.
        if name not in _PLAIN or "." in module:
            return "module"
    return "one_line"


def from_name(text: str) -> OutputType:
    """Return the output type that a text names.

    >>> from_name("mood: good|bad, score: float?").columns[0].name
    'mood'

    Args:
        text: a file of a JSON schema, ``package.module:Model``, or fields in one line. Modules are
            found in the working directory, too.

    Raises:
        ConfigurationError: it names nothing, or nothing that can be an output type.
    """
    kind = kind_of(text)
    if kind == "file":
        return _from_file(Path(text.strip()))
    if kind == "module":
        found = _imported(text.strip())
        try:
            return as_output_type(found)
        except ConfigurationError as error:
            raise ConfigurationError(f"schema {text.strip()}: {error}") from error
    if text.lstrip().startswith("{"):
        raise ConfigurationError("a JSON schema is given as a file: write it into FILE.json")
    return as_output_type(from_one_line(text))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # too long for a name
        return False


def _from_file(path: Path) -> OutputType:
    try:
        schema = json.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"schema {path} cannot be read: {reason}; give a file of a JSON schema"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"schema {path} is nested too deeply") from None
    except ValueError as error:
        raise ConfigurationError(f"schema {path} is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ConfigurationError(f"schema {path} is no JSON schema: it must be an object")
    try:
        return as_output_type(schema)
    except ConfigurationError as error:
        raise ConfigurationError(f"schema {path}: {error}") from error


def _imported(text: str) -> Any:
    name, _, attribute = text.partition(":")
    folder = str(Path.cwd())
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output may be for the rows
            found: Any = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a script ends itself when it is imported
        reason = redact(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise ConfigurationError(
            f"schema {text}: module {name} cannot be imported: {reason}; "
            "it is looked for in the working directory and where Python's packages are; "
            f"the types of fields in one line are {KNOWN}"
        ) from error
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)
    for part in attribute.split("."):
        if not hasattr(found, part):
            file = getattr(found, "__file__", None)
            place = f" ({file})" if file else ""
            raise ConfigurationError(
                f"schema {text}: {name}{place} has no {part}{_near(found, part)}"
            )
        found = getattr(found, part)
    return found


def _near(module: Any, name: str) -> str:
    import difflib

    names = [each for each in dir(module) if not each.startswith("_")]
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""
