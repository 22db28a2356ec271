"""Write llmflow/pricing/prices.json from the price map of the installed litellm.

``make_prices.py [--date 2026-11-24]``. The map is read as a file: importing litellm takes
seconds and may download a newer one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

TARGET = Path(__file__).parent.parent / "llmflow" / "pricing" / "prices.json"

_MODES = frozenset({"chat", "completion", "responses"})
# Their field, and ours. A suffix says of which tier and service a price is.
_FIELDS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_reasoning_token": "reasoning",
}
_BATCH_FIELDS = ("input", "output", "cached_input", "cache_write")
# Dollars per million tokens: what is above was written down per thousand of them.
_UNBELIEVABLE = 1000
_TIER = re.compile(r"input_cost_per_token(_above_(\d+)k_tokens)")
# What they file under a name of its own, and where one finds it.
_PROVIDERS = {
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "text-completion-codestral": "codestral",
    "text-completion-inception": "inception",
    "text-completion-openai": "openai",
}
_BATCH_DISCOUNTS: Mapping[str, Mapping[str, Any]] = {
    # Providers whose batch prices the map does not have, and who document one discount
    # for all models of their batch API (their documentation, August 2026). `cached` says
    # that it applies to cached tokens, too; without that they cost what others do there.
    # Together halves a few models only, and is not here.
    "fireworks_ai": {"share": 0.5, "cached": True},
    "groq": {"share": 0.5},
    "mistral": {"share": 0.5},
}


def make(*, date: str) -> dict[str, Any]:
    """Return the table as it is written.

    Args:
        date: the day that prices are said to be of.
    """
    models = dict(_models(_price_map()))
    return {
        "as_of": date,
        "source": f"litellm {importlib.metadata.version('litellm')}",
        "batch_discounts": _BATCH_DISCOUNTS,
        "models": {name: models[name] for name in sorted(models)},
    }


def written(table: Mapping[str, Any]) -> bytes:
    """Return the file's bytes: a model to a line, so that a change reads as one."""
    head = [_pair(name, each) for name, each in table.items() if name != "models"]
    rows = [_pair(name, each) for name, each in table["models"].items()]
    return b'{\n%s,\n"models":{\n%s\n}}\n' % (b",\n".join(head), b",\n".join(rows))


def _pair(name: str, value: Any) -> bytes:
    return b"%s:%s" % (orjson.dumps(name), orjson.dumps(value))


def _price_map() -> Mapping[str, Any]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("litellm is not installed: pip install 'llmflow[litellm]'")
    folder = Path(spec.submodule_search_locations[0])
    loaded: Mapping[str, Any] = orjson.loads(
        (folder / "model_prices_and_context_window_backup.json").read_bytes()
    )
    return loaded


def _models(prices: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    # A name that is filed twice (with and without its provider) counts as it is written out.
    for name in sorted(prices, key=lambda each: each.count("/")):
        entry = prices[name]
        if entry.get("mode") not in _MODES or "input_cost_per_request" in entry:
            continue
        row = _row(entry)
        if row is not None:
            yield _full_name(name, entry["litellm_provider"]), row


def _full_name(name: str, filed_under: str) -> str:
    provider = _PROVIDERS.get(filed_under, filed_under)
    if provider.startswith("vertex_ai-"):
        provider = "vertex_ai"
    for prefix in (provider, filed_under):
        if name.startswith(f"{prefix}/"):
            return f"{provider}/{name.removeprefix(f'{prefix}/')}"
    return f"{provider}/{name}"


def _row(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    tiers = list(_tiers(entry))
    if not tiers:
        return None
    row: dict[str, Any] = {}
    start = 0
    for above, prices in reversed(tiers):
        longer = {"longer": [start, row]} if row else {}
        row, start = {**prices, **longer}, above
    context = [_tokens(entry.get(name)) for name in ("max_input_tokens", "max_output_tokens")]
    return {**row, "context": context} if any(context) else row


def _tokens(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _tiers(entry: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the prices from each length of the prompt on, the shortest first."""
    for tier in entry.get("tiered_pricing") or ():
        prices = _prices(tier, "")
        if prices is None:
            return
        yield int(tier["range"][0]), prices
    if entry.get("tiered_pricing"):
        return
    base = _prices(entry, "")
    if base is None:
        return
    yield 0, base
    found = (_TIER.fullmatch(name) for name in entry)
    for thousands, suffix in sorted((int(each[2]), each[1]) for each in found if each):
        prices = _prices(entry, suffix)
        if prices is not None:
            yield thousands * 1000, _with_batch(prices, base)


def _with_batch(prices: dict[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """Give long prompts the batch discount of the others where the map is silent."""
    for name in ("input", "output"):
        batch = f"batch_{name}"
        if batch in base and batch not in prices:
            prices[batch] = _rounded(prices[name] * base[batch] / base[name])
    return prices


def _prices(entry: Mapping[str, Any], tier: str) -> dict[str, float] | None:
    """Return dollars per million tokens, or None where the map does not know them.

    It writes 0 both for what is free and for what it does not know.
    """
    prices = {}
    for theirs, ours in _FIELDS.items():
        for service, prefix in (("", ""), ("_batches", "batch_")):
            value = entry.get(f"{theirs}{tier}{service}")
            if isinstance(value, int | float) and value > 0 and (not service or _has_batch(ours)):
                prices[prefix + ours] = _rounded(value * 1e6)
    if "input" not in prices or "output" not in prices:
        return None
    if max(prices.values()) > _UNBELIEVABLE:
        return None
    if prices.get("reasoning") == prices["output"]:
        del prices["reasoning"]
    if "batch_input" not in prices or "batch_output" not in prices:
        prices = {name: each for name, each in prices.items() if not name.startswith("batch_")}
    return prices


def _has_batch(field: str) -> bool:
    return field in _BATCH_FIELDS


def _rounded(value: float) -> float:
    """Return a price without the residue of its conversion, and whole dollars as whole."""
    rounded = float(f"{value:.9g}")
    return int(rounded) if rounded.is_integer() else rounded


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    parser.add_argument("--date", default=today, help="the day that prices are of")
    table = make(date=parser.parse_args().date)
    data = written(table)
    TARGET.write_bytes(data)
    print(f"{TARGET.name}: {len(table['models']):,} models, {len(data):,} bytes")


if __name__ == "__main__":
    main()
