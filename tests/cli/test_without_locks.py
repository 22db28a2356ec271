"""Where the file system has no locks, no run ends well with rows missing."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import rows_of, wait_for, write_rows
from tests.cli.sessions import Process, Start, answers, ended, words

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform == "win32", reason="flock")]

_NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
COUNT = 200


@pytest.fixture(autouse=True)
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take flock from the processes that are started."""
    folder = tmp_path / "without-locks"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_NO_LOCKS)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


def partials() -> list[Path]:
    return sorted(Path().glob("out.partial*"))


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
@pytest.mark.parametrize("journal", [True, False])
def test_two_runs_into_one_output_lose_no_row(
    process: Process, simulator: Start, out: str, journal: bool
) -> None:
    write_rows("in.jsonl", COUNT)
    sim = simulator(latency=0.05)
    options = ["--concurrency", "20", *([] if journal else ["--no-journal"])]
    both = [process(*words(sim, *options, out=out)) for _ in range(2)]
    results = [ended(each) for each in both]
    codes = sorted(each.code for each in results)
    assert codes in ([0, 2], [0, 0]), [each.err for each in results]
    rows = rows_of(out) if out.endswith("jsonl") else Path(out).read_text().splitlines()[1:]
    assert len(rows) == COUNT
    if codes == [0, 2]:
        (refused,) = (each for each in results if each.code == 2)
        assert "another run has written it meanwhile" in refused.err
        (left,) = partials()
        assert len(left.read_text().splitlines()) >= COUNT, "its rows are kept, too"
        assert left.name in refused.err


def test_a_run_that_was_killed_is_gone_on_with(process: Process, simulator: Start) -> None:
    write_rows("in.jsonl", COUNT)
    sim = simulator(latency=0.05)
    popen = process(*words(sim, "--concurrency", "5"))
    wait_for(lambda: sim.stats().answered >= 20, "20 answers")
    popen.send_signal(signal.SIGKILL)
    popen.wait()
    result = ended(process(*words(sim)))
    assert result.code == 0, result.err
    assert answers() == [f"text {n}" for n in range(COUNT)]
    assert sim.stats().received < COUNT + 20


@pytest.mark.parametrize("touch", ["removed", "replaced", "cut"])
def test_a_partial_file_that_was_touched_is_not_the_output(
    process: Process, simulator: Start, touch: str
) -> None:
    write_rows("in.jsonl", COUNT)
    sim = simulator(latency=0.05)
    popen = process(*words(sim, "--concurrency", "5"))
    wait_for(lambda: any(each.stat().st_size for each in partials()), "rows in the file")
    (path,) = partials()
    if touch == "cut":
        os.truncate(path, 0)
    else:
        path.unlink()
    if touch == "replaced":
        path.write_text('{"index":0,"response":"of somebody else"}\n')
    result = ended(popen)
    assert result.code == 2
    assert "another program has" in result.err
    assert not Path("out.jsonl").exists()
    assert ended(process(*words(sim))).code == 0, "the journal has the answers"
    assert answers() == [f"text {n}" for n in range(COUNT)]
    assert sim.stats().received == COUNT
