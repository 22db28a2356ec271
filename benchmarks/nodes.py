"""Measure what a parallel node costs per item, and print one JSON line.

python benchmarks/nodes.py --items 1000000 --limit 100 --kind trivial --source list
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from llmflow.nodes import AsyncParallelBatchNode


class Trivial(AsyncParallelBatchNode):
    async def prep_async(self, shared: dict[str, Any]) -> Any:
        return shared["items"]

    async def exec_async(self, item: int) -> int:
        return item

    async def post_async(self, shared: dict[str, Any], _prep_res: Any, exec_res: list[int]) -> None:
        shared["count"] = len(exec_res)


class Switching(Trivial):
    async def exec_async(self, item: int) -> int:
        await asyncio.sleep(0)
        return item


KINDS = {"trivial": Trivial, "switching": Switching}


async def stream(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def source(kind: str, count: int) -> Iterable[int] | AsyncIterator[int]:
    return {"list": lambda: list(range(count)), "range": lambda: range(count)}.get(
        kind, lambda: stream(count)
    )()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--limit", type=int, default=100, help="0 for no limit")
    parser.add_argument("--kind", choices=sorted(KINDS), default="trivial")
    parser.add_argument("--source", choices=("list", "range", "stream"), default="list")
    args = parser.parse_args()
    shared: dict[str, Any] = {"items": source(args.source, args.items)}
    node = KINDS[args.kind](concurrency_limit=args.limit or None)
    begin = time.perf_counter()
    asyncio.run(node.run_async(shared))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = {
        **vars(args),
        "done": shared["count"],
        "microseconds_per_item": round(seconds / args.items * 1e6, 2),
        "peak_rss_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
        "python": sys.version.split()[0],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
