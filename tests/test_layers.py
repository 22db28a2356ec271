"""Imports point down only: the table of docs/design.md, as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
# From the bottom up; a module may import from its own layer and from those before it.
LAYERS = [
    {"errors"},
    {"arguments", "failure_notes", "loops", "private_files", "rate_limits", "shares"},
    {"types", "clock", "headers", "lenient_json", "printable", "surrogates", "tokens"},
    {"events", "pricing"},
    {"retry"},
    {"provider", "transport", "batch_api"},
    {"config"},
    {"limits"},
    {"journal", "budget"},
    {"cache"},
    {"progress"},
    {"calls", "batch"},
    {"runs"},
    {"telemetry"},
    {"background", "rows"},
    {"call_options"},
    {"mapping"},
    {"llm", "llm_copying"},
    {"engine"},
    {"nodes"},
    {"inference"},
    {"flows"},
    {"jobs"},
    {"cli"},
]
BESIDE = {
    "simulator": {"errors", "loops", "private_files", "types", "simulator"},
    "testing": {"errors", "retry", "types"},
}
TOP = {"__init__", "__main__"}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of llmflow with the name of its part."""
    for path in sorted((ROOT / "llmflow").rglob("*.py")):
        yield path.relative_to(ROOT / "llmflow").parts[0].removesuffix(".py"), path


def imported_parts(path: Path) -> set[str]:
    """Return the parts of llmflow that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
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
        "batch_api",
        "errors",
        "headers",
        "lenient_json",
        "provider",
        "rate_limits",
        "retry",
        "surrogates",
        "tokens",
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
