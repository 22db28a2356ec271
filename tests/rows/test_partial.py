"""Helper files beside the output: new ones of our own, whatever somebody has put there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import ConfigurationError
from llmflow.rows import open_output, open_rows
from llmflow.rows.output_files import Partial, create
from llmflow.rows.writers import RowWriter

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes of POSIX")


@pytest.fixture(params=[0o077, 0o022, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def plant(kind: str, path: Path, victim: Path) -> None:
    victim.write_text("precious")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.with_name("not there"))
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link to a folder":
        path.symlink_to(victim.parent, target_is_directory=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.mkdir()


KINDS = [
    "link",
    "dangling link",
    "link to itself",
    "link to a folder",
    "pipe",
    "socket",
    "folder",
]


def write_all(path: Path, **options: Any) -> RowWriter:
    """Write an output with everything that makes helper files."""
    with open_output(path, **options) as out:
        out.write({"a": 1})
        out.write({"a": 2, "b": 3})  # a column that came later: the file is written once more
        out.fail({"a": 4})
    return out


HELPERS = [
    ("a.jsonl", "a.partial.jsonl"),
    ("a.csv", "a.partial.csv"),
    ("a.parquet", "a.partial.jsonl"),
    ("a.jsonl", "a.failed.partial.jsonl"),
    ("a.csv", "a.partial.whole.csv"),
    ("a.parquet", "a.partial.parquet"),
]


class TestPlanted:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("name", "helper"), HELPERS)
    def test_what_is_no_file_of_ours_is_refused_and_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, helper: str, kind: str
    ) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        folder = tmp_path / "shared"
        folder.mkdir()
        monkeypatch.chdir(folder)  # a socket's path may not be long
        victim = tmp_path / "victim"
        plant(kind, Path(helper), victim)
        ended = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                write_all(Path(name))
            except BaseException as error:
                failed.append(error)
            ended.set()

        threading.Thread(target=work, daemon=True).start()
        assert ended.wait(10), "it hangs"
        (error,) = failed
        assert isinstance(error, ConfigurationError)
        assert helper in str(error) or kind == "folder"
        assert victim.read_text() == "precious"
        assert not victim.with_name("not there").exists()
        assert not Path(name).exists()
        found = os.lstat(helper)
        assert not stat.S_ISREG(found.st_mode)

    def test_a_file_that_is_linked_elsewhere_is_not_written_to(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        for helper in ("a.partial.csv", "a.partial.whole.csv", "a.failed.partial.jsonl"):
            os.link(victim, tmp_path / helper)
        write_all(tmp_path / "a.csv")
        assert victim.read_text() == "precious"
        assert len(list(open_rows(tmp_path / "a.csv"))) == 2

    def test_a_link_at_the_failures_own_name_is_replaced_and_not_followed(
        self, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "a.failed.jsonl").symlink_to(victim)
        write_all(tmp_path / "a.jsonl")
        assert victim.read_text() == "precious"
        assert not (tmp_path / "a.failed.jsonl").is_symlink()

    def test_between_the_look_and_the_making_nothing_is_followed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")

        def too_early(self: Partial, keep: bool) -> None:
            if not os.path.lexists(self.path):
                self.path.symlink_to(victim)

        monkeypatch.setattr(Partial, "_clear", too_early)
        with pytest.raises(ConfigurationError, match="another run is writing this file"):
            open_output(tmp_path / "a.jsonl")
        assert victim.read_text() == "precious"

    def test_making_one_never_opens_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "there").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for name in ("there", "link"):
            with pytest.raises(FileExistsError):
                create(tmp_path / name)
        assert not (tmp_path / "nowhere").exists()

    def test_the_name_set_aside_is_no_link_either(self, tmp_path: Path) -> None:
        (tmp_path / "a.partial.jsonl").write_text("paid for")
        (tmp_path / "a.partial-1.jsonl").symlink_to(tmp_path / "nowhere")
        write_all(tmp_path / "a.jsonl")
        assert (tmp_path / "a.partial-2.jsonl").read_text() == "paid for"
        assert (tmp_path / "a.partial-1.jsonl").is_symlink()


class TestModes:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
    @pytest.mark.parametrize("wanted", [0o600, 0o640, 0o664])
    def test_helpers_have_the_target_s_mode_from_the_start(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        umask: int,
        name: str,
        wanted: int,
    ) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        target = tmp_path / name
        target.write_text("old")
        target.chmod(wanted)
        made: dict[str, int] = {}
        real = os.open

        def watched(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
            descriptor = real(path, flags, mode, **rest)
            if flags & os.O_CREAT:
                made[Path(path).name] = stat.S_IMODE(os.fstat(descriptor).st_mode)
            return descriptor

        monkeypatch.setattr(os, "open", watched)
        out = write_all(target)
        monkeypatch.undo()
        helpers = {"a.jsonl": 2, "a.csv": 3, "a.parquet": 3}
        assert len(made) == helpers[name], made
        assert all(each & ~wanted == 0 for each in made.values()), made
        assert mode(target) == wanted
        assert mode(out.failed_path) == wanted

    def test_without_a_target_the_umask_says_it(self, tmp_path: Path, umask: int) -> None:
        out = write_all(tmp_path / "a.csv")
        assert mode(tmp_path / "a.csv") == mode(out.failed_path) == 0o666 & ~umask

    def test_failures_keep_a_mode_of_their_own(self, tmp_path: Path) -> None:
        target, failures = tmp_path / "a.jsonl", tmp_path / "a.failed.jsonl"
        for path, each in ((target, 0o644), (failures, 0o600)):
            path.write_text("old")
            path.chmod(each)
        write_all(target)
        assert (mode(target), mode(failures)) == (0o644, 0o600)


class TestTouched:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
    @pytest.mark.parametrize("touch", ["removed", "replaced", "cut", "longer", "link"])
    def test_a_partial_file_that_was_touched_is_not_taken_for_the_rows(
        self, tmp_path: Path, name: str, touch: str
    ) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        out = open_output(tmp_path / name)
        out.write({"a": 1})
        out.flush()
        path = out.partial_path
        assert path is not None
        if touch in ("removed", "replaced", "link"):
            path.rename(tmp_path / "elsewhere")
        if touch == "replaced":
            path.write_bytes((tmp_path / "elsewhere").read_bytes())
        elif touch == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif touch == "cut":
            os.truncate(path, 2)
        elif touch == "longer":
            with path.open("ab") as file:
                file.write(b'{"a":2}\n')
        with pytest.raises(ConfigurationError, match=r"another program has .* run again"):
            out.commit()
        assert not (tmp_path / name).exists()

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
    def test_rows_that_were_cut_off_while_others_follow_are_missed(
        self, tmp_path: Path, name: str
    ) -> None:
        """Written on where it stood, the file would have a hole, and the size it should have."""
        out = open_output(tmp_path / name)
        for number in range(50):
            out.write({"a": number})
        out.flush()
        assert out.partial_path is not None
        assert Path(out.partial_path).stat().st_size > 0
        os.truncate(out.partial_path, 0)
        for number in range(50):
            out.write({"a": number})
        with pytest.raises(ConfigurationError, match=r"another program has changed .* run again"):
            out.commit()
        assert not (tmp_path / name).exists()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
    def test_two_runs_write_files_of_their_own(self, tmp_path: Path, name: str) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        first, second = open_output(tmp_path / name), open_output(tmp_path / name)
        assert first.partial_path != second.partial_path
        for number in range(100):
            first.write({"a": number})
            second.write({"a": -number})
            if number == 50:
                first.write({"a": 1, "late": 1})
                second.write({"a": 1, "late": 1})
                first.flush()
        second.commit()
        with pytest.raises(ConfigurationError, match="another run has written it meanwhile"):
            first.commit()
        rows = list(open_rows(tmp_path / name))
        assert len(rows) == 101
        assert {int(row["a"]) for row in rows} == {-number for number in range(100)} | {1}
        kept = [path for path in tmp_path.iterdir() if path.name != name]
        assert len(kept) == 1, kept
        assert len(kept[0].read_bytes()) > 101

    def test_an_older_output_is_replaced_by_one_of_them(self, tmp_path: Path) -> None:
        target = tmp_path / "a.jsonl"
        target.write_text("old")
        first, second = open_output(target), open_output(target)
        first.write({"a": 1})
        first.commit()
        second.write({"a": 2})
        with pytest.raises(ConfigurationError, match="has no locks; the rows are in"):
            second.commit()
        assert target.read_text() == '{"a":1}\n'

    def test_two_at_the_same_moment_do_not_both_succeed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second looks at the target just before the first renames its file."""
        target = tmp_path / "a.jsonl"
        writers = [open_output(target) for _ in range(8)]
        for number, out in enumerate(writers):
            out.write({"a": number})
        start = threading.Barrier(len(writers))
        ended: list[int] = []

        def commit(number: int, out: RowWriter) -> None:
            start.wait()
            try:
                out.commit()
            except ConfigurationError:
                return
            ended.append(number)

        threads = [
            threading.Thread(target=commit, args=(number, out))
            for number, out in enumerate(writers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ended) == 1
        assert target.read_text() == f'{{"a":{ended[0]}}}\n'
        assert "a.jsonl.commit" not in listing(tmp_path)

    def test_a_commit_that_was_killed_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llmflow.rows.output_files._PAUSE", 0.0)
        (tmp_path / "a.jsonl.commit").touch()
        out = open_output(tmp_path / "a.jsonl")
        with pytest.raises(ConfigurationError, match=r"a\.jsonl\.commit says .* remove it"):
            out.commit()
