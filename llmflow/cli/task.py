"""Task of ``llmflow run``: its options, run name and command line."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from llmflow.errors import ConfigurationError, InputError
from llmflow.rows.output_files import is_stdout
from llmflow.surrogates import well_formed, well_formed_value

# Of one session only, not of the run.
_PASSING: Final = ("run", "retry_failed", "dry_run", "quiet", "as_json", "detach")
# No options: the argument, and where the command was given.
_NO_OPTIONS: Final = ("source", "folder", "stored_schema")
_NAMES: Final = {"as_json": "json"}
_BYTES: Final = "bytes"  # under which what is no UTF-8 is kept, as hexadecimal digits
_NEEDED: Final = ("source", "prompt", "model", "output")
_LONGEST_NAME: Final = 40
_ESCAPES: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\", "'": r"\'"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The options of ``llmflow run``.

    All fields are options of the command, but for `folder`: where it was given, which is
    where ``llmflow.toml`` is looked for; and `stored_schema`: name and content of the schema that
    `schema` stood for when the run began.
    """

    source: str
    prompt: str
    model: str
    output: str
    escape_formulas: bool | None = None
    base_url: str | None = None
    rpm: float | None = None
    tpm: float | None = None
    concurrency: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    option: Sequence[str] = ()
    timeout: float | None = None
    system: str | None = None
    cache_system: str | None = None
    schema: str | None = None
    reasks: int | None = None
    output_method: str | None = None
    stored_schema: Mapping[str, Any] | None = None
    limit: int | None = None
    format: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    on_bad_row: str | None = None
    skip_empty: bool | None = None
    budget: float | None = None
    run: str | None = None
    no_journal: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    dedupe: bool = False
    cache: bool = False
    drain: float | None = None
    mode: str | None = None
    deadline: str | None = None
    fallback: str | None = None
    detach: bool = False
    details: bool = False
    dry_run: bool = False
    config: str | None = None
    quiet: bool = False
    as_json: bool = False
    folder: str | None = None

    def __post_init__(self) -> None:
        if is_stdout(self.output):
            object.__setattr__(self, "output", "-")

    @property
    def name(self) -> str:
        """The name of its run: the one that writes the same output."""
        if self.run is not None:
            return self.run
        task = (_absolute(self.source), self.prompt, self.model, self.system, self.base_url)
        return run_name(self.output, task=task if self.schema is None else (*task, self.schema))

    @property
    def in_batches(self) -> bool:
        """True if its rows may go into batch jobs."""
        return self.mode in ("batch", "auto")

    @property
    def may_use_batches(self) -> bool:
        """True if at least some of its rows may."""
        return self.in_batches or self.fallback == "batch"

    @property
    def is_piped(self) -> bool:
        """True if its rows come through a pipe, to be read once."""
        path = Path(self.source)
        return self.source == "-" or (path.exists() and not (path.is_file() or path.is_dir()))

    def stored(self) -> dict[str, Any]:
        """Return it as plain values with absolute paths, to be restored."""
        task = replace(
            self,
            # What a shell's <(...) is called now is something else tomorrow.
            source="-" if self.is_piped else _absolute(self.source),
            output=_absolute(self.output),
            config=None if self.config is None else _absolute(self.config),
            folder=_working_directory(),
        )
        kept = {
            name: value
            for name, value in asdict(task).items()
            # Not by equality: 0 is a temperature, and False to Python.
            if name not in _PASSING and value is not None and value is not False and value != ()
        }
        texts = {name: value for name, value in kept.items() if isinstance(value, str)}
        foreign = {name: value for name, value in texts.items() if well_formed(value) != value}
        if foreign:
            # Names that are not UTF-8, which the journal cannot hold as texts.
            kept[_BYTES] = {name: os.fsencode(value).hex() for name, value in foreign.items()}
        return {name: well_formed_value(value) for name, value in kept.items()}

    @classmethod
    def restored(cls, kept: Mapping[str, Any], *, name: str, **changes: Any) -> Self:
        """Return what a run has kept, as a task of that run."""
        known = {each.name for each in fields(cls)}
        values = {**kept, **_decoded(kept), **changes}
        values.pop(_BYTES, None)
        if not all(isinstance(kept.get(each), str) for each in _NEEDED):
            raise InputError(
                f"the journal of run {name} does not say how it was started: run its command again"
            )
        if unknown := sorted(set(values) - known):
            raise InputError(
                f"the run {name} was started by another version of llmflow, with "
                f"{', '.join(unknown)}: run its command again"
            )
        return cls(**values, run=name)

    def command(self) -> str:
        r"""Return its command line, in printable characters.

        >>> Task(source="in.csv", prompt="Sum: {text}", model="sim/demo", output="o.csv").command()
        "llmflow run in.csv --prompt 'Sum: {text}' --model sim/demo --output o.csv"
        """
        words = ["llmflow", "run", self.source]
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "run" and value == replace(self, run=None).name:
                continue  # it has its name from the output
            if each.name in _NO_OPTIONS or value is None or value is False:
                continue
            option = f"--{_NAMES.get(each.name, each.name).replace('_', '-')}"
            for one in value if isinstance(value, list | tuple) else (value,):
                words.append(option)
                if one is not True:
                    words.append(
                        str(one).removesuffix(".0") if isinstance(one, float) else str(one)
                    )
        return " ".join(map(quoted, words))


def _decoded(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that were kept as bytes."""
    foreign = kept.get(_BYTES)
    if not isinstance(foreign, Mapping):
        return {}
    return {str(name): os.fsdecode(bytes.fromhex(str(raw))) for name, raw in foreign.items()}


def _absolute(path: str) -> str:
    return path if path == "-" else str(Path(path).absolute())


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # it was deleted
        return None


def run_name(output: str, *, task: Iterable[str | None] = ()) -> str:
    """Return the name of the run that writes this output.

    The same file is the same run, whatever is asked: what changed is found out item by
    item. What goes to a stream is told apart by its task.

    >>> run_name("/data/summaries.jsonl")
    'summaries-3cb11b'

    `task` is what is asked of what, for an output that is a stream.
    """
    path = Path(output)
    try:
        is_file = output != "-" and (path.is_file() or not path.exists())
    except OSError:  # such as a name that is too long: whoever opens it says so
        is_file = True
    if is_file:
        whole = _resolved(path)
        stem, identity = whole.stem, str(whole)
    else:
        stem, identity = "stream", "\0".join(each or "" for each in task)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:_LONGEST_NAME] or "run"
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    return f"{slug}-{digest}"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError is how Python before 3.13 says it
        reason = (error.strerror if isinstance(error, OSError) else None) or "a link to itself"
        raise ConfigurationError(f"{path} cannot be written: {reason}") from None


def quoted(word: str) -> str:
    r"""Return a word quoted for a shell, in printable characters only.

    >>> print(quoted("Sum up: {text}"), quoted("two\nlines"))
    'Sum up: {text}' $'two\nlines'
    """
    if all(letter.isprintable() for letter in word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    # What was no text on the command line is the same bytes again.
    foreign = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "replace"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", foreign))


@contextmanager
def in_folder(folder: str | None) -> Iterator[None]:
    """Work where the run's command was given, if that is still there."""
    before = None
    with suppress(OSError):
        before = Path.cwd()
    with suppress(OSError):
        if folder is not None:
            os.chdir(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            if before is not None:
                os.chdir(before)
