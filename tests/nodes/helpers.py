"""What the tests of several files of nodes and flows run."""

from __future__ import annotations

import asyncio
from typing import Any

from llmflow.nodes import AsyncParallelBatchNode


def now() -> float:
    return asyncio.get_running_loop().time()


class Each(AsyncParallelBatchNode):
    """Runs over shared["items"] and leaves its results in shared["out"]."""

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
        shared["out"] = exec_res
