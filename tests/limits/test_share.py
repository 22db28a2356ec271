"""A program that is told its share of a quota keeps to it, and N of them use the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, Quota
from llmflow.errors import ConfigurationError, TooLargeForLimitError
from llmflow.limits import Limiter
from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import Ticket
from llmflow.limits.learned_limits import LearnedLimit
from llmflow.limits.limiter_statistics import remedy_for
from llmflow.limits.registry import forget_limiters, limiter_for
from llmflow.shares import part_of, share_text
from llmflow.types import Charge, QuotaSignal
from tests.limits.test_scenarios import RPM, expect, settings
from tests.simulated import play, prompts, varied_prompts

WRONG = ["0", "2/1", "1/0", "0/4", "-1/-4", "1.5", "1/4/2", "nan", "inf", "1e400", "a quarter", "/"]
MEMBERS = pytest.mark.parametrize("members", [2, 4, 8])


# --- together they use the whole, and no more ------------------------------------------------


@MEMBERS
@pytest.mark.slow
def test_programs_that_know_their_number_use_a_known_limit_without_a_rejection(
    members: int,
) -> None:
    quota = replace(RPM, share=f"1/{members}")
    outcome = play(settings(), prompts(2000), quota=quota, clients=members)
    expect(outcome, 20.0, ratio=1.05, rejected=0.0)


@MEMBERS
@pytest.mark.slow
def test_they_use_a_limit_that_only_headers_name_without_a_rejection(members: int) -> None:
    quota = Quota(share=1 / members)
    outcome = play(settings(), prompts(2000), quota=quota, clients=members)
    expect(outcome, 20.0, ratio=1.10, rejected=0.001)


@MEMBERS
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.slow
def test_what_was_saved_up_is_shared_too(members: int, known: bool) -> None:
    quota = Quota(rpm=6000 if known else None, share=1 / members)
    outcome = play(settings(burst_seconds=30), prompts(4000), quota=quota, clients=members)
    expect(outcome, 11.0, ratio=1.25, rejected=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("known", [True, False])
def test_a_token_limit_is_shared_by_requests_of_all_sizes(members: int, known: bool) -> None:
    texts = varied_prompts(1500, tokens=300)
    charged = [max(16, -(-len(text) // 4)) for text in texts]
    quota = Quota(tpm=600_000 if known else None, share=1 / members)
    outcome = play(settings(rpm=None, tpm=600_000), texts, quota=quota, clients=members)
    # The items are dealt out beforehand: whoever has the most is the last.
    most = max(sum(charged[member::members]) for member in range(members))
    expect(outcome, most * members / 10_000, ratio=1.06, rejected=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("members", [2, 4])
@pytest.mark.parametrize("known", [True, False])
def test_limits_of_input_and_output_in_anthropics_dialect_are_shared(
    members: int, known: bool
) -> None:
    texts = varied_prompts(600, tokens=300)
    limits = {"itpm": 200_000, "otpm": 40_000}
    share = 1 / members
    quota = Quota(itpm="200k", otpm="40k", share=share) if known else Quota(share=share)
    outcome = play(
        settings(rpm=None, **limits), texts, quota=quota, clients=members, model="anthropic/bench"
    )
    used = {"itpm": outcome.stats.input_tokens, "otpm": outcome.stats.output_tokens}
    ideal = max(60.0 * used[name] / limits[name] for name in limits)
    assert not outcome.errors
    assert outcome.seconds / ideal < 1.20  # the members' items are not of one size
    assert outcome.rejected <= 0.01


@pytest.mark.parametrize("burst", [1, 60])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.slow
def test_a_program_that_is_alone_keeps_to_its_share(burst: int, known: bool) -> None:
    quota = Quota(rpm=6000 if known else None, share="1/4")
    outcome = play(settings(burst_seconds=burst), prompts(2000), quota=quota)
    assert not outcome.errors
    start = outcome.arrivals[0][0]
    for seconds in (2.0, 5.0, 10.0, 18.0):
        sent = sum(at <= start + seconds for at, _ in outcome.arrivals)
        assert sent <= 25 * (seconds + burst)


@pytest.mark.slow
def test_others_who_use_their_part_are_no_reason_to_use_less() -> None:
    quota = replace(RPM, share="1/4")
    outcome = play(settings(), prompts(2000), quota=quota, clients=4)
    assert all(limiter.statistics().shares == {"rpm": 1.0} for limiter in outcome.limiters)


# --- what is shared ----------------------------------------------------------------------


def test_a_share_applies_to_every_limit_and_to_calls_in_flight() -> None:
    limiter = Limiter(Quota(rpm=6000, tpm="1M", rpd=10_000, max_concurrent=10, share="1/4"))
    limiter.observe([QuotaSignal("itpm", limit=400_000.0)])
    seen = limiter.statistics()
    assert seen.share == 0.25
    assert seen.limits == {"rpm": 1500.0, "tpm": 250_000.0, "rpd": 2500.0, "itpm": 100_000.0}
    assert seen.max_in_flight == 2
    assert seen.levels["rpm"] == pytest.approx(25 * 0.75)  # its part of the burst
    assert seen.learned == {"itpm": 400_000.0}
    assert Limiter(Quota(share=0.25), max_in_flight=1000).statistics().max_in_flight == 250


def test_where_a_share_of_the_connections_binds_the_remedy_is_named() -> None:
    limiter = Limiter(Quota(share="1/4"), max_in_flight=1000)
    bound = replace(limiter.statistics(), bound_by={"in_flight": 0.9})
    remedy = remedy_for(bound, limiter.quota, lambda: "more files")
    assert remedy == "max_concurrent, above 1,000 for all who share the quota, allows more"
    assert Limiter(Quota(max_concurrent=4000, share="1/4")).statistics().max_in_flight == 1000


def test_a_request_that_fits_the_whole_limit_fits() -> None:
    admission = Admission(Quota(tpm=60_000, share="1/4"), max_in_flight=10, now=0.0)
    large = Ticket(Charge(tokens=40_000))
    assert admission.admit_at_once(large, 0.0)
    small = Ticket(Charge(tokens=100))
    assert not admission.admit_at_once(small, 0.0)
    admission.enqueue(small)
    delay = admission.pump(0.0)
    # The debt is paid at the share's rate, 250 a second.
    assert delay == pytest.approx((40_000 - 250 * 0.75 + 100) / 250, rel=0.01)
    with pytest.raises(TooLargeForLimitError, match=r"the limit is 60,000"):
        admission.admit_at_once(Ticket(Charge(tokens=60_001)), 1000.0)


def test_the_memory_holds_the_limits_of_the_account() -> None:
    limiter = Limiter(Quota(share="1/4"))
    limiter.observe([QuotaSignal("rpm", limit=600.0)])
    (kept,) = limiter.learned()
    assert kept.limit == 600.0
    later = Limiter(Quota(share="1/2"))
    later.recall([kept])
    assert later.statistics().limits == {"rpm": 300.0}
    guess = LearnedLimit(dimension="tpm", limit=1000.0, burst_seconds=0.5, estimated=True)
    later.recall([guess])
    assert later.statistics().limits["tpm"] == pytest.approx(1000 * 0.85 / 2)
    assert later.statistics().learned["tpm"] == pytest.approx(1000 * 0.85)


def test_a_rejection_beside_others_remainder_does_not_discredit_the_headers() -> None:
    admission = Admission(Quota(rpm=6000, share="1/4"), max_in_flight=100, now=0.0)
    ticket = Ticket(Charge())
    assert admission.admit_at_once(ticket, 0.0)
    # 30 are left of the account's 100 a second, which is more than a second's worth of ours.
    admission.reject(ticket, 0.1, 0.2, signals=[QuotaSignal("rpm", limit=6000.0, remaining=30.0)])
    assert admission.dimensions.buckets[0].is_believed


def test_another_share_at_run_time_is_followed() -> None:
    limiter = Limiter(Quota(rpm=600, share="1/2"))
    limiter.retune(Quota(rpm=600, share="1/3"))
    assert limiter.statistics().limits["rpm"] == pytest.approx(200.0)
    limiter.retune(Quota(rpm=600))
    assert limiter.statistics().limits == {"rpm": 600.0}


@MEMBERS
def test_they_begin_together_as_carefully_as_one_where_no_limit_is_known(members: int) -> None:
    quota = Quota(share=1 / members)
    outcome = play(settings(rpm=600), prompts(200), quota=quota, clients=members)
    expect(outcome, 20.0, ratio=1.10, rejected=0.005)


@given(
    share=st.floats(0.01, 1.0),
    limit=st.floats(60.0, 60_000.0),
    replies=st.lists(
        st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 60.0), st.floats(0.01, 2.0)), max_size=60
    ),
)
def test_whatever_replies_say_no_more_than_the_share_goes(
    share: float, limit: float, replies: list[tuple[float, float, float]]
) -> None:
    quota = Quota(rpm=limit, share=share, burst_seconds=1)
    admission = Admission(quota, max_in_flight=10**9, now=0.0)
    now, sent, depth = 0.0, 0, 1.0
    for left, reset, passed in replies:
        tickets = []
        while len(tickets) < 2000:
            ticket = Ticket(Charge())
            if not admission.admit_at_once(ticket, now):
                break
            tickets.append(ticket)
        sent += len(tickets)
        now += passed
        depth = max(depth, left * limit / (limit / 60.0) + reset)
        signal = QuotaSignal("rpm", limit=limit, remaining=left * limit, reset=reset)
        for ticket in tickets:
            admission.finish(ticket, None, now, signals=[signal])
        rate = share * limit / 60.0
        assert sent <= rate * (now + depth) + 1.0 + 1e-6 * sent


# --- how it is said ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_limiters()


@pytest.mark.parametrize(
    ("said", "share"), [("1/4", 0.25), (0.25, 0.25), ("0.25", 0.25), (" 2 / 8 ", 0.25), (1, 1.0)]
)
def test_a_share_is_a_fraction_or_a_number(said: float | str, share: float) -> None:
    assert Quota(share=said).share == share
    assert Quota(share=said).part == share


@pytest.mark.parametrize("said", [*WRONG, 0, 2, 1.01, -0.5, float("nan"), True, [1, 4]])
def test_what_is_no_share_is_named_with_the_remedy(said: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^share must be .* such as 1/4.*got") as caught:
        Quota(share=said)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_variable_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", said)
    with pytest.raises(ConfigurationError, match=r"^LLMFLOW_SHARE must be .* such as 1/4"):
        LLM("openai/gpt-6-luna", api_key="sk-test")
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    assert LLM("openai/gpt-6-luna", api_key="sk-test").limiter.statistics().share == 0.25


@pytest.mark.parametrize("said", ["", "  ", "1"])
def test_an_empty_variable_and_a_whole_share_change_nothing(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", said)
    llm = LLM("openai/gpt-6-luna", api_key="sk-test", quota=Quota(rpm=600))
    assert llm.limiter.statistics().share == 1.0
    assert llm.limiter.statistics().limits == {"rpm": 600.0}


def test_a_share_that_leaves_no_request_in_flight_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"max_concurrent=2 .* at the most"):
        Quota(max_concurrent=2, share="1/4")
    assert Quota(max_concurrent=4, share="1/4").part == 0.25


def test_the_argument_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    own = LLM("openai/one", api_key="sk-test", quota=Quota(rpm=600, share="1/2"))
    told = LLM("openai/two", api_key="sk-test", quota=Quota(rpm=600))
    bare = LLM("openai/three", api_key="sk-test")
    shares = [llm.limiter.statistics().share for llm in (own, told, bare)]
    assert shares == [0.5, 0.25, 0.25]


def test_a_later_object_without_a_quota_keeps_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMFLOW_SHARE", "1/4")
    domain = ("openai", "https://api.test", "digest", "model")
    first = limiter_for(domain, None, max_in_flight=8)
    # To name a limit later is no change of one.
    assert limiter_for(domain, Quota(rpm=600), max_in_flight=8) is first
    assert limiter_for(domain, None, max_in_flight=8) is first
    assert first.statistics().limits == {"rpm": 150.0}


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_shares_are_shown_as_they_are_written(part: int, whole: int) -> None:
    share = min(part, whole) / max(part, whole)
    text = share_text(share)
    assert Quota(share=text).part == pytest.approx(share, rel=1e-9)


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_parts_of_a_number_never_come_to_more_than_it(count: int, members: int) -> None:
    assert part_of(count, 1 / members) * members <= max(count, members)
    assert part_of(count * members, 1 / members) == count
