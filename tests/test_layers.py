"""The order of imports: downwards only, per file without circles; and the size of files."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.source_tree

ROOT = Path(__file__).parent.parent
ROOTS = {"llmflow": ROOT / "llmflow", "llmflow_providers": ROOT / "providers/llmflow_providers"}
# From the bottom up; a module may import from its own layer and from those before it.
LAYERS = [
    {"_version", "errors"},
    {"arguments", "failure_notes", "loops", "parts", "private_files", "rate_limits", "shares"},
    {"types", "clock", "format", "headers", "lenient_json", "surrogates", "tables", "tokens"},
    {"events", "pricing"},
    {"items"},
    {"retry"},
    {"typed"},
    {"provider", "transport"},
    {"provider_registry"},
    {"config"},
    {"limits"},
    {"journal", "budget"},
    {"cache"},
    {"progress"},
    {"calls"},
    {"batch"},
    {"runs"},
    {"telemetry"},
    {"background", "rows"},
    {"call_options"},
    {"mapping"},
    {"llm", "llm_asking", "llm_copying"},
    {"engine"},
    {"nodes"},
    {"inference"},
    {"flows"},
    {"jobs"},
    {"cli"},
]
BESIDE = {
    "simulator": {"errors", "loops", "private_files", "types", "simulator"},
    "testing": {"errors", "parts", "retry", "typed", "types"},
}
TOP = {"__init__", "__main__"}


@cache
def import_statements(path: Path) -> list[ast.AST]:
    """Return the imports of a file: at its top, inside functions, and for types only."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of llmflow with the name of its part."""
    for path in sorted((ROOT / "llmflow").rglob("*.py")):
        yield path.relative_to(ROOT / "llmflow").parts[0].removesuffix(".py"), path


def imported_parts(path: Path) -> set[str]:
    """Return the parts of llmflow that a module imports, at its top or inside functions."""
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "llmflow"
            names = [f"llmflow.{a.name}" for a in node.names] if whole else [node.module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("llmflow.")}
        if any(name.startswith("llmflow_providers") for name in names):
            found.add("llmflow_providers")
    return found


def level(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def test_every_module_has_a_place() -> None:
    known = set().union(*LAYERS) | set(BESIDE) | TOP
    assert {part for part, _ in modules()} - known == set()


def test_imports_point_down_only() -> None:
    wrong = []
    for part, path in modules():
        if part in TOP or part in BESIDE:
            continue
        for other in imported_parts(path) - {part}:
            # The command line may start the simulator; nothing else knows what stands beside.
            allowed = other == "simulator" if part == "cli" and other in BESIDE else True
            if other in BESIDE or other == "llmflow_providers":
                allowed = allowed and part == "cli" and other == "simulator"
            elif other != "__version__":
                allowed = level(other) <= level(part)
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == []


def test_what_stands_beside_knows_little() -> None:
    for part, path in modules():
        if part in BESIDE:
            assert imported_parts(path) <= BESIDE[part] | {part}, path


def test_providers_know_the_protocol_and_nothing_above() -> None:
    allowed = {
        "errors",
        "headers",
        "lenient_json",
        "parts",
        "provider",
        "provider_registry",
        "rate_limits",
        "retry",
        "surrogates",
        "tokens",
        "typed",
        "types",
    }
    for path in (ROOT / "providers").rglob("*.py"):
        extra = {"simulator", "llmflow_providers"} if path.stem == "sim" else {"llmflow_providers"}
        assert imported_parts(path) <= allowed | extra, path


def test_modules_stay_small() -> None:
    large = {
        str(path.relative_to(ROOT)): lines
        for path in [*ROOT.glob("llmflow/**/*.py"), *ROOT.glob("providers/**/*.py")]
        if (lines := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert large == {}


# The lines of llmflow and its providers. What is new may need some: then raise it, and say in the
# commit what for. Lower it when there are fewer.
SOURCE_LINES = 59_400


def test_the_source_does_not_grow_unnoticed() -> None:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in files().values())
    assert lines <= SOURCE_LINES


# Files that import each other, each in a circle; more may not come. A file and its owner, as
# the first one is, may stay.
CIRCLES = [
    {"llmflow.budget.ledger", "llmflow.budget.reservation"},
]
# File names that occur more than once; lower it when there are fewer.
NAMES_USED_TWICE = 7


def files() -> dict[str, Path]:
    """Return every source file by the name under which it is imported."""
    found = {}
    for top, folder in ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (top, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported_files(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Return the source files that one imports: at its top, in functions, or for types only."""
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else node.module)
    return found & known.keys()


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the groups of files each of which imports all others of its group, by detours."""
    reached = dict(imports)
    for by_way_of in imports:
        for name in imports:
            if by_way_of in reached[name]:
                reached[name] = reached[name] | reached[by_way_of]
    groups = {
        frozenset({other for other in reached[name] if name in reached[other]} | {name})
        for name in imports
    }
    return [set(group) for group in groups if len(group) > 1]


def test_files_import_each_other_in_no_new_circles() -> None:
    known = files()
    found = circles({name: imported_files(path, known) - {name} for name, path in known.items()})
    assert [each for each in found if not any(each <= allowed for allowed in CIRCLES)] == []
    gone = [sorted(each) for each in CIRCLES if not any(circle <= each for circle in found)]
    assert gone == [], "no circle any more: take it out of the list"
    assert len(CIRCLES) <= 2


def test_circles_are_found_by_detours() -> None:
    graph = {
        "a": {"b"},
        "b": {"c"},
        "c": {"a"},
        "d": {"a", "e"},
        "e": {"f"},
        "f": {"e"},
        "g": {"f"},
    }
    assert sorted(circles(graph), key=len) == [{"e", "f"}, {"a", "b", "c"}]


def test_file_names_tell_files_apart() -> None:
    names = Counter(path.name for path in files().values())
    twice = sorted(name for name, count in names.items() if count > 1 and name != "__init__.py")
    assert len(twice) <= NAMES_USED_TWICE, twice
