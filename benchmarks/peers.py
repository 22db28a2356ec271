"""Run the scenarios through other clients, side by side: ``python benchmarks/peers.py``.

Each client is a script in ``benchmarks/peers`` and has a virtual environment of its own
under ``~/.cache/llmflow-benchmarks`` (or ``XDG_CACHE_HOME``), which is made at the first
run. All of them talk to the same simulator, one after the other, on the other core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from ideal import ideal_of_run
from results import RESULTS, show_peer
from scenarios.measure import server
from scenarios.paced import RECORDED_PER_ITEM
from scenarios.quotas import PACED

from llmflow.simulator import SimulatorSettings

HERE = Path(__file__).parent
SCENARIOS = ("rpm", "tpm", "unknown", "blind", "faults")
ITEMS = 1000


class Peer(NamedTuple):
    """A client: its script, what pip installs for it, and whose versions are told."""

    script: str
    packages: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


PEERS: Mapping[str, Peer] = {
    "llmflow": Peer("llmflow_client.py"),
    "lm-deluge": Peer("lm_deluge_client.py", ("lm-deluge",), ("lm-deluge",)),
    "async-batch-llm": Peer(
        "async_batch_llm_client.py", ("async-batch-llm[openai]",), ("async-batch-llm", "openai")
    ),
    "litellm": Peer("litellm_client.py", ("litellm",), ("litellm", "openai")),
    "langchain-openai": Peer(
        "langchain_client.py", ("langchain-openai",), ("langchain-core", "langchain-openai")
    ),
    "pocketflow": Peer("pocketflow_client.py", ("pocketflow", "openai"), ("pocketflow", "openai")),
}


def environment(name: str, peer: Peer) -> tuple[str, dict[str, str]]:
    """Return a client's Python, its packages installed, and their versions."""
    if not peer.packages:
        import llmflow

        return sys.executable, {"llmflow": llmflow.__version__}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "llmflow-benchmarks" / name
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        print(f"installing {', '.join(peer.packages)} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *peer.packages]
        subprocess.run(pip, check=True)
        (home / "installed").touch()
    ask = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    command = [str(python), "-c", ask, *peer.versions]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return str(python), dict(zip(peer.versions, said.split(), strict=True))


def measure(scenario_name: str, peer: Peer, python: str, n: int) -> dict[str, Any]:
    """Run a client through a scenario; it is stopped at three times the ideal and a minute."""
    scenario = PACED[scenario_name]
    texts = scenario.texts(n)
    limit = 3 * scenario.expected(texts) + 60
    settings = {**scenario.settings, "record": RECORDED_PER_ITEM * n}
    quota = scenario.quota
    with (
        server(**settings) as sim,
        tempfile.TemporaryDirectory(prefix="llmflow-benchmark-") as cache,
        tempfile.TemporaryFile("w+") as said,
    ):
        task = {
            "url": sim.url,
            "texts": texts,
            "rpm": quota and quota.rpm,
            "tpm": quota and quota.tpm,
            "burst_seconds": quota and quota.burst_seconds,
        }
        env = {**os.environ, "XDG_CACHE_HOME": cache, "LLMFLOW_STATE_DIR": cache}
        try:
            done = subprocess.run(
                [python, str(HERE / "peers" / peer.script)],
                input=json.dumps(task),
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=env,
                timeout=limit,
                check=False,
            )
            report = json.loads(done.stdout.splitlines()[-1]) if not done.returncode else None
        except subprocess.TimeoutExpired:
            report = {"seconds": limit, "answered": sim.stats().answered, "stopped": True}
        seen, admitted = sim.stats(), sim.admissions()
        if report is None:
            said.seek(0)
            return {"error": said.read().strip()[-300:]}
    began = admitted.rows[0].at if admitted.rows else admitted.started
    ideal = ideal_of_run(SimulatorSettings(**settings), admitted, began=began)
    return {
        "seconds": report["seconds"],
        "ideal": ideal,
        "ratio": report["seconds"] / ideal,
        "rejected_per_item": seen.rejections / n,
        "lost": n - report["answered"],
        "stopped": report.get("stopped", False),
    }


def main() -> int:
    """Run clients through scenarios, print their figures and save them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", help=f"some of {', '.join(SCENARIOS)}")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only this client")
    parser.add_argument("--n", type=int, default=ITEMS, help=f"items ({ITEMS:,})")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "peers.json"
    saved: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    runs = saved.setdefault("runs", {})
    versions = saved.setdefault("versions", {})
    for name in options.peer or PEERS:
        python, versions[name] = environment(name, PEERS[name])
    for scenario in options.scenarios or SCENARIOS:
        for name in options.peer or PEERS:
            python, _ = environment(name, PEERS[name])
            result = {"n": options.n, **measure(scenario, PEERS[name], python, options.n)}
            show_peer(scenario, name, result)
            runs.setdefault(scenario, {})[name] = result
            path.write_text(json.dumps(saved, indent=1) + "\n")
            time.sleep(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
