"""What was learned outlives the process, harms nobody, and is believed for a week."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM, Quota
from llmflow.errors import TooLargeForLimitError
from llmflow.limits import Limiter
from llmflow.limits.learned_limits import (
    LIFETIME,
    LearnedLimit,
    Remembered,
    digest,
    forget,
    load,
    save,
    state_file,
)
from llmflow.limits.registry import forget_limiters, limiter_for, remember_limits
from llmflow.testing import ScriptedProvider
from llmflow.types import Charge, QuotaSignal

DOMAIN = ("acme", "https://api.acme.example/v1", "0123456789abcdef", "large")
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget_limiters()
    yield
    forget_limiters()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMFLOW_STATE_DIR", str(tmp_path / "state"))
    found = state_file()
    assert found is not None
    return found


def learned(
    limit: float, dimension: str = "rpm", *, estimated: bool = False, burst: float = 1.0
) -> LearnedLimit:
    return LearnedLimit(dimension=dimension, limit=limit, burst_seconds=burst, estimated=estimated)


def entry(*limits: LearnedLimit, at: float = NOW) -> Remembered:
    return Remembered(
        provider="acme",
        model="large",
        limits={each.dimension: each for each in limits},
        times={each.dimension: at for each in limits},
    )


def limiter_of(domain: Any = DOMAIN, quota: Quota | None = None) -> Limiter:
    return limiter_for(domain, quota, max_in_flight=100)


def next_process() -> None:
    """Have nothing left but the file."""
    remember_limits()
    forget_limiters()


class TestTheNextRun:
    def test_it_begins_with_the_limits_that_replies_have_named(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("rpm", limit=600.0), QuotaSignal("tpm", limit=1e5)])
        next_process()
        assert limiter_of().statistics().limits == {"rpm": 600.0, "tpm": 100_000.0}

    def test_it_begins_below_what_was_estimated(self, path: Path) -> None:
        save(path, {str(digest(DOMAIN)): entry(learned(1000, estimated=True), at=time.time())})
        statistics = limiter_of().statistics()
        assert statistics.limits["rpm"] == pytest.approx(850)

    def test_it_begins_with_the_burst_window(self, path: Path) -> None:
        save(path, {str(digest(DOMAIN)): entry(learned(600, burst=0.25), at=time.time())})
        assert limiter_of().statistics().burst_seconds == {"rpm": 0.25}

    def test_a_configured_quota_stays_a_ceiling(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        next_process()
        assert limiter_of(quota=Quota(rpm=100)).statistics().limits == {"rpm": 100.0}

    def test_another_key_begins_with_nothing(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        next_process()
        assert limiter_of((*DOMAIN[:2], "another", DOMAIN[3])).statistics().limits == {}

    def test_what_a_reply_names_counts_more(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        next_process()
        limiter_of().observe([QuotaSignal("rpm", limit=900.0)])
        next_process()
        assert limiter_of().statistics().limits == {"rpm": 900.0}

    @pytest.mark.virtual_time
    async def test_a_limit_of_yesterday_does_not_forbid_a_larger_request(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("tpm", limit=1000.0)])
        next_process()
        limiter = limiter_of()
        permit = await limiter.acquire(Charge(1, 5000))
        permit.settle(signals=[QuotaSignal("tpm", limit=1000.0)])
        with pytest.raises(TooLargeForLimitError, match="1,000"):
            await limiter.acquire(Charge(1, 5000))

    @pytest.mark.virtual_time
    async def test_a_configured_limit_forbids_it_all_the_same(self, path: Path) -> None:
        limiter_of().observe([QuotaSignal("tpm", limit=1000.0)])
        next_process()
        with pytest.raises(TooLargeForLimitError, match="2,000"):
            await limiter_of(quota=Quota(tpm=2000)).acquire(Charge(1, 5000))


class TestWhatIsRemembered:
    @pytest.mark.parametrize(
        "domain",
        [
            object(),
            ("sim", "demo"),
            ("openai", "http://127.0.0.1:8000/v1", "key", "model"),
            ("openai", "http://127.9.9.9/v1", "key", "model"),
            ("openai", "http://[::1]:8000/v1", "key", "model"),
            ("openai", "http://localhost:8000/v1", "key", "model"),
            ("openai", "http://0.0.0.0:8000/v1", "key", "model"),
            ("openai", "http://api.localhost/v1", "key", "model"),
            ("openai", ("nested",), "key", "model"),
            (None, "https://api.acme.example/v1", "key", "model"),
        ],
    )
    def test_not_what_a_later_run_would_not_meet_again(self, domain: Any) -> None:
        assert digest(domain) is None

    def test_providers_elsewhere_are(self) -> None:
        for model in ("openai/gpt-4.1-mini", "anthropic/claude-sonnet-4-5", "litellm/groq/llama"):
            assert digest(LLM(model, api_key="key").provider.domain) is not None

    def test_the_simulator_within_and_scripts_are_not(self, path: Path) -> None:
        for llm in (LLM("sim/demo"), LLM(ScriptedProvider())):
            llm.limiter.observe([QuotaSignal("rpm", limit=300.0)])
        remember_limits()
        assert not path.parent.exists()

    def test_nothing_is_written_where_nothing_was_learned(self, path: Path) -> None:
        limiter_of(quota=Quota(rpm=10))
        remember_limits()
        assert not path.parent.exists()

    def test_no_key_is_in_the_file(self, path: Path) -> None:
        secret = "sk-very-secret-0123456789"
        llm = LLM("openai/gpt-4.1-mini", api_key=secret)
        llm.limiter.observe([QuotaSignal("rpm", limit=300.0)])
        remember_limits()
        content = path.read_text()
        assert "gpt-4.1-mini" in content
        assert secret not in content
        assert llm.provider.domain[2] not in content  # type: ignore[index]

    def test_a_name_that_is_no_unicode_is_no_obstacle(self, path: Path) -> None:
        domain = (*DOMAIN[:3], "a\udcffb")
        limiter_of(domain).observe([QuotaSignal("rpm", limit=300.0)])
        next_process()
        assert limiter_of(domain).statistics().limits == {"rpm": 300.0}


class TestHowLong:
    def test_a_week(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        assert load(path, now=NOW + LIFETIME - 1)["a"].limits == {"rpm": learned(600)}
        assert load(path, now=NOW + LIFETIME + 1) == {}

    def test_what_comes_from_the_future_is_not_believed(self, path: Path) -> None:
        save(path, {"a": entry(learned(600), at=NOW + 3600)}, now=NOW + 3600)
        assert load(path, now=NOW) == {}

    def test_what_is_too_old_is_dropped_at_the_next_write(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        later = NOW + LIFETIME + 1
        save(path, {"b": entry(learned(500), at=later)}, now=later)
        assert list(orjson.loads(path.read_bytes())["domains"]) == ["b"]

    def test_what_stays_the_same_is_not_renewed_for_ever(self) -> None:
        after = entry(learned(600)).updated([learned(600, burst=0.5)], rejected=True, now=NOW + 9)
        assert after.times == {"rpm": NOW}
        assert after.limits["rpm"].burst_seconds == 0.5

    def test_an_estimate_does_not_fall_by_being_recalled(self) -> None:
        before = entry(learned(1000, estimated=True))
        again = [learned(850, estimated=True)]
        assert before.updated(again, rejected=False, now=NOW + 9) == before
        after = before.updated(again, rejected=True, now=NOW + 9)
        assert (after.limits["rpm"].limit, after.times["rpm"]) == (850, NOW + 9)

    def test_an_estimate_that_grew_is_news(self) -> None:
        before = entry(learned(1000, estimated=True))
        after = before.updated([learned(1100, estimated=True)], rejected=False, now=NOW + 9)
        assert (after.limits["rpm"].limit, after.times["rpm"]) == (1100, NOW + 9)

    def test_a_named_limit_takes_the_place_of_an_estimate(self) -> None:
        before = entry(learned(1000, estimated=True))
        after = before.updated([learned(600)], rejected=False, now=NOW + 9)
        assert after.limits["rpm"] == learned(600)

    def test_many_domains_push_out_the_oldest(self, path: Path) -> None:
        save(path, {f"{n}": entry(learned(600), at=NOW + n) for n in range(300)}, now=NOW + 300)
        found = load(path, now=NOW + 300)
        assert len(found) == 256
        assert "299" in found
        assert "0" not in found


class TestSeveralProcesses:
    def test_what_another_has_written_meanwhile_stays(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        save(path, {"b": entry(learned(700))}, now=NOW)
        assert set(load(path, now=NOW)) == {"a", "b"}

    def test_the_newer_of_both_counts_for_each_dimension(self, path: Path) -> None:
        save(path, {"a": entry(learned(600), learned(9, "tpm"), at=NOW + 5)}, now=NOW + 5)
        save(path, {"a": entry(learned(500), learned(8, "otpm"), at=NOW)}, now=NOW + 5)
        limits = load(path, now=NOW + 5)["a"].limits
        assert {name: each.limit for name, each in limits.items()} == {
            "rpm": 600,
            "tpm": 9,
            "otpm": 8,
        }

    def test_many_at_once_lose_nothing(self, path: Path) -> None:
        code = (
            "import sys, time\n"
            "from llmflow.limits.registry import limiter_for\n"
            "from llmflow.types import QuotaSignal\n"
            "name = sys.argv[1]\n"
            "domain = ('acme', 'https://acme.example', 'key', name)\n"
            "limiter_for(domain, None, max_in_flight=9).observe([QuotaSignal('rpm', limit=60)])\n"
            "print('ready', flush=True)\n"
            "sys.stdin.read()\n"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, f"m{n}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for n in range(6)
        ]
        for each in processes:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        for each in processes:  # all of them end now
            assert each.stdin is not None
            each.stdin.close()
        for each in processes:
            assert each.stdout is not None
            assert each.stderr is not None
            assert (each.wait(20), each.stderr.read()) == (0, b"")
            each.stdout.close()
            each.stderr.close()
        assert {found.model for found in load(path).values()} == {f"m{n}" for n in range(6)}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_keeps_what_it_learned(self, path: Path) -> None:
        limiter = limiter_of()
        child = os.fork()
        if not child:
            try:
                limiter.observe([QuotaSignal("rpm", limit=77.0)])
                remember_limits()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        (found,) = load(path).values()
        assert found.limits["rpm"].limit == 77.0


class TestTheFile:
    def test_it_is_nobody_elses(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_nothing_else_is_left_beside_it(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        assert sorted(each.name for each in path.parent.iterdir()) == [
            ".limits.json.lock",
            "limits.json",
        ]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[1, 2]",
            b"null",
            b"\xff\xfe\x00",
            b'{"version": 2, "domains": {}}',
            b'{"version": 1}',
            b'{"version": 1, "domains": []}',
            b'{"version": 1, "domains": {"a": 7}}',
            b'{"version": 1, "domains": {"a": {"limits": {"rpm": {}}}}}',
            b"[" * 100_000,
            b" " * (2**20 + 1),
        ],
    )
    def test_a_broken_or_foreign_one_is_ignored_and_replaced(
        self, path: Path, content: bytes
    ) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        limiter = limiter_of()
        assert limiter.statistics().limits == {}
        limiter.observe([QuotaSignal("rpm", limit=600.0)])
        next_process()
        assert limiter_of().statistics().limits == {"rpm": 600.0}

    @pytest.mark.parametrize("limit", ["NaN", "-1", "0", "1e999", '"9"', "true", "null"])
    def test_a_number_that_is_none_is_not_used(self, path: Path, limit: str) -> None:
        path.parent.mkdir()
        text = (
            '{"version": 1, "domains": {"KEY": {"provider": "p", "model": "m", "limits": {"rpm": '
            '{"limit": LIMIT, "burst_seconds": 1, "estimated": false, "learned_at": TIME}}}}}'
        )
        text = text.replace("KEY", str(digest(DOMAIN))).replace("LIMIT", limit)
        path.write_text(text.replace("TIME", str(time.time())))
        assert limiter_of().statistics().limits == {}

    def test_an_unknown_dimension_is_left_out(self, path: Path) -> None:
        save(path, {"a": entry(learned(600), learned(5, "images"))}, now=NOW)
        assert set(load(path, now=NOW)["a"].limits) == {"rpm"}

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
    def test_a_pipe_in_its_place_is_not_waited_for(self, path: Path) -> None:
        path.parent.mkdir()
        os.mkfifo(path)
        assert limiter_of().statistics().limits == {}

    def test_a_folder_in_its_place_is_no_error(self, path: Path) -> None:
        path.mkdir(parents=True)
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        remember_limits()
        assert list(path.iterdir()) == []

    def test_a_folder_that_cannot_be_made_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LLMFLOW_STATE_DIR", str(tmp_path / "file" / "below"))
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        remember_limits()

    def test_a_write_that_fails_leaves_the_old_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        save(path, {"b": entry(learned(700))}, now=NOW)
        monkeypatch.undo()
        assert set(load(path, now=NOW)) == {"a"}
        assert len(list(path.parent.iterdir())) == 2

    def test_what_it_already_says_is_not_written_again(self, path: Path) -> None:
        save(path, {"a": entry(learned(600))}, now=NOW)
        before = path.stat().st_ino
        save(path, {"a": entry(learned(600))}, now=NOW)
        assert path.stat().st_ino == before

    def test_what_is_forgotten_is_gone(self, path: Path) -> None:
        at = time.time()
        save(path, {"a": entry(learned(600), at=at), "b": entry(learned(700), at=at)})
        assert forget(path, ["a", "c"]) == 1
        assert set(load(path)) == {"b"}


class TestWhereItIs:
    @pytest.mark.parametrize("value", ["", "off", "OFF", " "])
    def test_it_can_be_switched_off(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLMFLOW_STATE_DIR", value)
        assert state_file() is None
        limiter_of().observe([QuotaSignal("rpm", limit=600.0)])
        remember_limits()

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG's folders")
    @pytest.mark.parametrize(
        ("cache", "expected"),
        [
            ("/var/caches", "/var/caches/llmflow/limits.json"),
            ("relative", "/home/me/.cache/llmflow/limits.json"),
            (None, "/home/me/.cache/llmflow/limits.json"),
        ],
    )
    def test_it_is_in_the_folder_for_caches(
        self, cache: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LLMFLOW_STATE_DIR")
        monkeypatch.setenv("HOME", "/home/me")
        if cache is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", cache)
        assert state_file() == Path(expected)

    def test_a_process_that_ends_keeps_what_it_learned(self, path: Path) -> None:
        code = (
            "from llmflow.limits.registry import limiter_for\n"
            "from llmflow.types import QuotaSignal\n"
            f"limiter = limiter_for({DOMAIN!r}, None, max_in_flight=9)\n"
            "limiter.observe([QuotaSignal('rpm', limit=60)])\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert limiter_of().statistics().limits == {"rpm": 60.0}
