"""--schema: answers as columns in every format, live, in batch jobs, and resumed."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.calls.session import Session
from llmflow.config import forget_configs
from llmflow.simulator import BatchSettings, SimulatorThread
from tests.cli.conftest import Run, listing, rows_of, write_rows
from tests.cli.sessions import Start, report_of, runs_folder, words
from tests.cli.sessions import ended as ended_with

pytestmark = pytest.mark.http

FIELDS = "sentiment: positive|negative|neutral, topics: list[str], score: float?, day: date"
MODEL = """\
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

Path("imported.txt").write_text("yes")


class Seller(BaseModel):
    name: str
    since: dt.date


class Review(BaseModel):
    sentiment: Literal["positive", "negative"]
    pages: int
    score: float
    good: bool
    day: dt.date
    at: dt.datetime
    price: Decimal
    seller: Seller
    topics: list[str]
    any: int | str


Mood = Literal["good", "bad"]
"""
QUICK = {"seconds": 0.2, "validation_seconds": 0.05, "finalizing_seconds": 0.05}
CONFIG = "[batch]\npoll = 0.05\nquiet = 0.3\nrequests = 10\n"


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a module with types in the working directory, and forget it afterwards."""
    Path("shapes.py").write_text(MODEL)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key")
    yield
    sys.modules.pop("shapes", None)


def forget_module() -> None:
    """Let the module be imported anew."""
    sys.modules.pop("shapes", None)
    Path("imported.txt").unlink(missing_ok=True)


def sent(sim: SimulatorThread) -> int:
    return sim.stats().received


def columns(path: str) -> list[dict[str, Any]]:
    rows = sorted(rows_of(path), key=lambda row: row["index"])
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return rows


class TestColumns:
    def test_fields_in_one_line_become_columns(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 5)
        ended = run(*words(sim, "--schema", FIELDS))
        assert ended.code == 0, ended.err
        for row in columns("out.jsonl"):
            assert list(row) == ["index", "id", "text", "sentiment", "topics", "score", "day"]
            assert row["sentiment"] in ("positive", "negative", "neutral")
            assert isinstance(row["topics"], list)

    def test_a_csv_has_nested_values_as_json(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", "shapes:Review", out="out.csv"))
        assert ended.code == 0, ended.err
        with Path("out.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 3
        for row in rows:
            assert orjson.loads(row["seller"]).keys() == {"name", "since"}
            assert isinstance(orjson.loads(row["topics"]), list)
            assert isinstance(orjson.loads(row["any"]), int | str)
            assert isinstance(float(row["score"]), float)
            assert row["good"] in ("true", "false")

    def test_a_parquet_file_has_typed_columns(self, run: Run, simulator: Start) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        sim = simulator()
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", "shapes:Review", out="out.parquet"))
        assert ended.code == 0, ended.err
        table = pq.read_table("out.parquet")
        types = {field.name: field.type for field in table.schema}
        assert types == {
            "index": pa.int64(),
            "id": pa.int64(),
            "text": pa.string(),
            "sentiment": pa.string(),
            "pages": pa.int64(),
            "score": pa.float64(),
            "good": pa.bool_(),
            "day": pa.date32(),
            "at": pa.timestamp("us", "UTC"),
            "price": pa.decimal128(38, 18),
            "seller": pa.struct([("name", pa.string()), ("since", pa.date32())]),
            "topics": pa.list_(pa.string()),
            "any": pa.string(),
        }
        for row in table.to_pylist():
            assert isinstance(orjson.loads(row["any"]), int | str)

    @pytest.mark.parametrize(
        ("schema", "values"),
        [("shapes:Mood", {"good", "bad"}), ("schema.json", {"yes", "no"})],
    )
    def test_a_type_that_is_no_object_is_the_column_response(
        self, run: Run, simulator: Start, schema: str, values: set[str]
    ) -> None:
        Path("schema.json").write_text('{"enum": ["yes", "no"]}')
        sim = simulator()
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", schema))
        assert ended.code == 0, ended.err
        for row in columns("out.jsonl"):
            assert list(row) == ["index", "id", "text", "response"]
            assert row["response"] in values

    def test_a_json_schema_in_a_file(self, run: Run, simulator: Start) -> None:
        properties = {"n": {"type": "integer", "minimum": 3, "maximum": 5}, "why": {}}
        schema = {"type": "object", "properties": properties, "required": ["n"]}
        Path("schema.json").write_bytes(orjson.dumps(schema))
        sim = simulator()
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", "schema.json"))
        assert ended.code == 0, ended.err
        for row in columns("out.jsonl"):
            assert list(row) == ["index", "id", "text", "n", "why"]
            assert row["n"] in (3, 4, 5)

    @pytest.mark.parametrize("out", ["out.jsonl", "out.csv", "out.parquet"])
    def test_a_rows_own_field_of_the_same_name_is_kept(
        self, run: Run, simulator: Start, out: str
    ) -> None:
        line = orjson.dumps({"text": "Hi", "topic": "own", "response": "r", "index": 9})
        Path("in.jsonl").write_bytes(line + b"\n")
        ended = run(*words(simulator(), "--schema", "topic: str, n: int", out=out))
        assert ended.code == 0, ended.err
        from tests.cli.test_details import read

        (row,) = read(Path(out))
        assert (row["input_topic"], row["response"], int(row["input_index"])) == ("own", "r", 9)
        assert isinstance(row["topic"], str)
        assert row["topic"] != "own"

    def test_details_come_after_the_fields(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 2)
        ended = run(*words(simulator(), "--schema", "topic: str", "--details"))
        assert ended.code == 0, ended.err
        for row in columns("out.jsonl"):
            assert list(row)[3:5] == ["topic", "finish_reason"]
            assert (row["finish_reason"], row["error"]) == ("stop", None)

    def test_fields_that_look_like_formulas_are_escaped(self, run: Run, simulator: Start) -> None:
        Path("schema.json").write_text('{"properties": {"a": {"const": "=1+1"}}}')
        write_rows("in.jsonl", 1)
        options = ["--schema", "schema.json", "--escape-formulas"]
        assert run(*words(simulator(), *options, out="out.csv")).code == 0
        with Path("out.csv").open(newline="", encoding="utf-8") as file:
            assert [row["a"] for row in csv.DictReader(file)] == ["'=1+1"]


class TestMethods:
    @pytest.mark.parametrize("model", ["openai/m", "anthropic/claude-sonnet-4-5"])
    @pytest.mark.parametrize("method", ["json_schema", "json_object", "tool", "prompt", None])
    def test_each_gives_the_same_columns(
        self, run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch, model: str, method: Any
    ) -> None:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-key")
        sim = simulator()
        write_rows("in.jsonl", 2)
        given = words(sim, "--schema", "topic: str, n: int, moods: list[good|bad]?")
        if model.startswith("anthropic"):
            given += ["--model", model, "--base-url", f"{sim.root_url}/v1"]
        if method is not None:
            given += ["--output-method", method]
        ended = run(*given)
        if model.startswith("anthropic") and method == "json_object":
            assert ended.code == 2
            assert "json_object" in ended.error
            return
        assert ended.code == 0, ended.err
        for row in columns("out.jsonl"):
            assert list(row)[3:] == ["topic", "n", "moods"]
            assert isinstance(row["n"], int)


class TestStreams:
    def test_rows_through_pipes(self, process: Any, simulator: Start) -> None:
        sim = simulator()
        given = words(sim, "--schema", "topic: str, n: int", source="-", out="-")
        popen = process(*given, stdin=subprocess.PIPE)
        result = ended_with(popen, b'{"text": "a"}\n{"text": "b"}\n')
        assert result.code == 0, result.err
        rows = [orjson.loads(line) for line in result.out.splitlines()]
        assert sorted(row["text"] for row in rows) == ["a", "b"]
        assert all(list(row) == ["index", "text", "topic", "n"] for row in rows)


class TestWrongAnswers:
    def test_they_are_asked_again_and_counted(self, run: Run, simulator: Start) -> None:
        sim = simulator(invalid_answer_rate=1.0)
        write_rows("in.jsonl", 10)
        ended = run(*words(sim, "--schema", "topic: str, n: int", "--json"))
        assert ended.code == 0, ended.err
        report = report_of(ended)
        assert (report["answered"], report["reasked"]) == (10, 10)
        assert sent(sim) == 20
        assert {tuple(row)[3:] for row in columns("out.jsonl")} == {("topic", "n")}

    def test_the_report_tells_of_them(self, run: Run, simulator: Start) -> None:
        sim = simulator(invalid_answer_rate=1.0)
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", "topic: str, n: int"))
        assert "3 answers were not accepted and asked again" in ended.err.splitlines()

    def test_what_stays_wrong_is_a_failed_row_with_the_raw_text(
        self, run: Run, simulator: Start
    ) -> None:
        sim = simulator()  # it knows nothing of what Python demands
        Path("strict.py").write_text(
            "from pydantic import BaseModel, field_validator\n\n\n"
            "class Never(BaseModel):\n    n: int\n\n"
            "    @field_validator('n')\n    @classmethod\n    def check(cls, value: int) -> int:\n"
            "        raise ValueError('there is no such number')\n"
        )
        write_rows("in.jsonl", 3)
        options = ["--schema", "strict:Never", "--details"]
        ended = run(*words(sim, *options))
        assert ended.code == 1, ended.err
        assert "the same command with --retry-failed or a higher --reasks retries" in ended.err
        assert rows_of("out.jsonl") == []
        failed = rows_of("out.failed.jsonl")
        assert len(failed) == 3
        for row in failed:
            assert row["error"]["type"] == "InvalidAnswerError"
            assert "there is no such number" in row["error"]["message"]
            assert isinstance(orjson.loads(row["error"]["text"])["n"], int)
            assert (row["finish_reason"], row["model"]) == ("stop", "x")
        assert sent(sim) == 6
        # The same again is answered from the journal, and one more question is asked and paid.
        assert run(*words(sim, *options)).code == 1
        assert sent(sim) == 6
        (name,) = [each.name for each in runs_folder().iterdir()]
        assert run("resume", name, "--reasks", "2").code == 0, "the schema alone is kept"
        assert sent(sim) == 6
        assert run(*words(sim, *options, "--reasks", "2")).code == 1
        assert sent(sim) == 9
        assert run(*words(sim, *options, "--retry-failed")).code == 1
        assert sent(sim) == 12

    @pytest.mark.parametrize("details", [[], ["--details"]])
    @pytest.mark.parametrize("mode", ["parallel", "batch"])
    def test_a_value_that_its_type_cannot_write_is_a_failed_row(
        self, mode: str, details: list[str], run: Run, simulator: Start
    ) -> None:
        sim = simulator(batch=BatchSettings(**QUICK))
        Path("llmflow.toml").write_text(CONFIG)
        Path("shapes.py").write_text(
            "from pydantic import BaseModel, field_serializer\n\n\n"
            "class Told(BaseModel):\n    name: str\n\n"
            "    @field_serializer('name')\n    def told(self, value: str) -> str:\n"
            "        if value == 'text 3':\n            raise KeyError(value)\n"
            "        return value\n"
        )
        write_rows("in.jsonl", 5)
        options = ["--schema", "shapes:Told", *details, "--mode", mode]
        config = ["--config", "llmflow.toml"]
        for _ in range(2):  # asked, and from the journal
            assert run(*words(sim, *options, *config)).code == 1
            assert sorted(row["index"] for row in rows_of("out.jsonl")) == [0, 1, 2, 4]
            (failed,) = rows_of("out.failed.jsonl")
            assert (failed["index"], failed["error"]["type"]) == (3, "InvalidAnswerError")
            assert "it cannot be written as JSON" in failed["error"]["message"]
            assert orjson.loads(failed["error"]["text"]) == {"name": "text 3"}

    def test_without_reasks_nothing_is_asked_again(self, run: Run, simulator: Start) -> None:
        sim = simulator(invalid_answer_rate=1.0)
        write_rows("in.jsonl", 4)
        ended = run(*words(sim, "--schema", "topic: str, n: int", "--reasks", "0", "--json"))
        assert (ended.code, sent(sim)) == (1, 4)
        assert report_of(ended)["reasked"] == 0
        assert all("text" in row["error"] for row in rows_of("out.failed.jsonl"))


class TestBatchMode:
    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("llmflow.toml").write_text(CONFIG)
        monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
        forget_configs()

    def test_columns_are_those_of_live_mode(self, run: Run, simulator: Start) -> None:
        sim = simulator(batch=BatchSettings(**QUICK), invalid_answer_rate=0.3)
        write_rows("in.jsonl", 25)
        options = ["--schema", "topic: str, n: int"]
        ended = run(*words(sim, *options, "--mode", "batch", "--json"))
        assert ended.code == 0, ended.err
        report = report_of(ended)
        assert report["answered"] == 25
        assert report["reasked"] > 0
        assert sent(sim) == 0, "nothing was asked live"
        assert run(*words(sim, *options, out="live.jsonl")).code == 0
        assert columns("live.jsonl") == columns("out.jsonl")

    def test_a_row_that_fails_in_this_session_is_none_of_an_earlier_one(
        self, run: Run, simulator: Start
    ) -> None:
        sim = simulator(batch=BatchSettings(**QUICK), invalid_answer_rate=1.0)
        write_rows("in.jsonl", 4)
        given = words(sim, "--schema", "topic: str, n: int", "--reasks", "0", "--mode", "batch")
        for known in (0, 4):
            ended = run(*given, "--json")
            assert ended.code == 1, ended.err
            done = report_of(ended)["run"]
            assert (done["failed_before"], done["failed"]) == (known, 4 - known)
            assert (done["answered"], done["replayed"]) == (0, 0)

    def test_auto_and_a_fallback_know_the_schema(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 5)
        for number, options in enumerate(
            (["--mode", "auto", "--deadline", "1h"], ["--mode", "batch", "--fallback", "parallel"])
        ):
            sim = simulator(batch=BatchSettings(**QUICK), invalid_answer_rate=0.5)
            out = f"out{number}.jsonl"
            ended = run(*words(sim, "--schema", "topic: str, n: int", *options, out=out))
            assert ended.code == 0, ended.err
            assert {tuple(row)[3:] for row in columns(out)} == {("topic", "n")}

    def test_known_answers_are_written_without_asking(
        self, run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        ask = Session.ask
        monkeypatch.setattr(
            Session, "ask", lambda self, call: asked.append(call) or ask(self, call)
        )
        sim = simulator(batch=BatchSettings(**QUICK), invalid_answer_rate=0.3)
        write_rows("in.jsonl", 30)
        given = words(sim, "--schema", "topic: str, n: int", "--mode", "batch")
        assert run(*given).code == 0
        wrong = sim.stats().batches.rows_invalid
        assert 0 < wrong < 30
        assert len(asked) == wrong, "only the wrong ones are calls of their own"
        first, billed = columns("out.jsonl"), sim.stats().batches.rows_billed
        asked.clear()
        assert run(*given).code == 0
        assert columns("out.jsonl") == first
        assert (len(asked), sim.stats().batches.rows_billed) == (wrong, billed)

    @pytest.mark.parametrize("schema", ["topic: str, n: int", "shapes:Review", "schema.json"])
    def test_resume_collects_with_the_stored_schema(
        self, run: Run, simulator: Start, schema: str
    ) -> None:
        Path("schema.json").write_text('{"type": "object", "properties": {"a": {"enum": [1]}}}')
        sim = simulator(batch=BatchSettings(**QUICK), invalid_answer_rate=0.4, seed=5)
        write_rows("in.jsonl", 5)
        ended = run(*words(sim, "--schema", schema, "--mode", "batch", "--detach", "--run", "one"))
        assert ended.code == 0, ended.err
        Path("schema.json").unlink()
        Path("shapes.py").unlink()
        forget_module()
        ended = run("resume", "one")
        assert ended.code == 0, ended.err
        assert len(columns("out.jsonl")) == 5
        batches = sim.stats().batches
        assert batches.rows_billed == 5 + batches.rows_invalid
        assert "shapes" not in sys.modules


class TestResume:
    def test_no_code_is_imported_unless_it_is_named_again(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 5)
        ended = run(*words(sim, "--schema", "shapes:Review", "--run", "one"))
        assert ended.code == 0, ended.err
        assert Path("imported.txt").exists()
        first = columns("out.jsonl")
        forget_module()
        ended = run("resume", "one")
        assert ended.code == 0, ended.err
        assert "stored schema of shapes:Review" in ended.err
        assert not Path("imported.txt").exists()
        assert columns("out.jsonl") == first
        ended = run("resume", "one", "--schema", "shapes:Review")
        assert ended.code == 0, ended.err
        assert Path("imported.txt").exists()
        assert columns("out.jsonl") == first
        assert sent(sim) == 5, "all of it was known"

    def test_it_goes_on_after_a_stop_in_every_format(self, run: Run, simulator: Start) -> None:
        for number, out in enumerate(("out.jsonl", "out.csv", "out.parquet")):
            sim = simulator()
            write_rows("in.jsonl", 20)
            options = ["--schema", "shapes:Review", "--run", f"run{number}"]
            assert run(*words(sim, *options, "--limit", "8", out=out)).code == 0
            assert run(*words(sim, *options, out=out)).code == 0
            assert sent(sim) == 20

    def test_another_schema_is_refused(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 2)
        assert run(*words(sim, "--schema", "shapes:Review", "--run", "one")).code == 0
        assert run(*words(sim, "--run", "two", out="two.jsonl")).code == 0
        error = run("resume", "one", "--schema", "shapes:Seller").error
        assert "shapes:Seller is another schema than the one that the run one began with" in error
        assert "has no schema" in run("resume", "two", "--schema", "shapes:Seller").error
        assert sent(sim) == 4

    def test_a_changed_file_does_not_change_a_run(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        Path("schema.json").write_text('{"type": "object", "properties": {"a": {"enum": [1]}}}')
        assert run(*words(sim, "--schema", "schema.json", "--run", "one")).code == 0
        Path("schema.json").write_text("{}")
        assert run("resume", "one").code == 0
        assert [row["a"] for row in columns("out.jsonl")] == [1, 1, 1]
        assert sent(sim) == 3


class TestWrongSchemas:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--schema", "nowhere.json"], "nowhere.json"),
            (["--schema", "broken.json"], "broken.json"),
            (["--schema", "list.json"], "list.json"),
            (["--schema", "type.json"], "type.json"),
            (["--schema", "nowhere:Model"], "No module named 'nowhere'"),
            (["--schema", "importer:Model"], "No module named 'missing_thing'"),
            (["--schema", "leaver:Model"], "leaver"),
            (["--schema", "shapes:Nothing"], "Nothing"),
            (["--schema", "shapes:MODEL_DICT"], "must be a type such as"),
            (["--schema", "a: str, b: strr"], "strr"),
            (["--schema", "a: str, a: int"], "a"),
            (["--schema", "a str"], "a str"),
            (["--schema", ""], "schema"),
            (["--schema", "index: int"], "'index' has the name of the row's position"),
            (["--schema", "cost: int", "--details"], "or leave out --details"),
            (["--reasks", "2"], "--reasks is for answers of a --schema"),
            (["--output-method", "tool"], "--output-method is for answers of a --schema"),
            (["--schema", "a: str", "--reasks", "-1"], "--reasks"),
            (["--schema", "a: str", "--output-method", "magic"], "--output-method"),
            (
                ["--schema", "a: str", "--option", 'response_format={"type": "json_object"}'],
                "response_format",
            ),
        ],
    )
    def test_it_is_one_line_and_nothing_is_written(
        self, run: Run, simulator: Start, options: list[str], message: str
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 2)
        Path("broken.json").write_text("{")
        Path("list.json").write_text("[1]")
        Path("type.json").write_text('{"type": "strin"}')
        Path("importer.py").write_text("import missing_thing\n")
        Path("leaver.py").write_text("raise SystemExit(3)\n")
        with Path("shapes.py").open("a") as file:
            file.write("\nMODEL_DICT = 7\n")
        before = listing()
        for command in ("run", "plan"):
            given = words(sim, *options)
            if command == "plan":
                if "--details" in options:
                    continue
                given[0] = "plan"
            ended = run(*given)
            assert ended.code == 2, ended.err
            assert message in ended.error
            left = [name for name in listing() if name not in ("imported.txt", "__pycache__")]
            assert left == before
        assert sent(sim) == 0


class TestPlan:
    def test_the_schema_counts(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 10)

        def tokens(*options: str) -> float:
            given = ["plan", *words(sim, *options)[1:], "--json"]
            plan = orjson.loads(run(*given).out)
            return float(plan["input_tokens"]["likely"])

        plain, small = tokens(), tokens("--schema", "topic: str")
        large = tokens("--schema", ", ".join(f"field_{n}: float?" for n in range(30)))
        assert plain + 100 < small < large - 1_000

    def test_what_is_answered_is_known(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 10)
        options = ["--schema", "topic: str", "--run", "one"]
        assert run(*words(sim, *options, "--limit", "4")).code == 0
        given = ["plan", *words(sim, *options)[1:], "--json"]
        plan = orjson.loads(run(*given).out)
        assert (plan["answered"], plan["left"]) == (4, 6)

    def test_a_dry_run_knows_the_columns_of_details(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 1)
        given = words(simulator(), "--schema", "cost: int", "--details", "--dry-run")
        ended = run(*given)
        assert (ended.code, ended.out) == (2, "")
        assert "'cost' has the name of a column of --details" in ended.error

    def test_a_dry_run_sends_nothing(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        ended = run(*words(sim, "--schema", "shapes:Review", "--dry-run"))
        assert ended.code == 0, ended.err
        assert sent(sim) == 0
