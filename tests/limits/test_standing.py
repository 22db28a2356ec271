"""The standing of a key and model: what follows from refusals, without any waiting."""

from __future__ import annotations

from llmflow.limits.standing import Standing, Verdict


class Told:
    """Notes what each call was told."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.verdicts: dict[int, Verdict] = {}

    def wait(self, call: int) -> None:
        assert self.standing.wait(call, lambda verdict: self.verdicts.update({call: verdict}))


def working() -> Standing:
    standing = Standing()
    standing.answered(0, sent=0.0)
    assert standing.is_sound
    return standing


def test_before_the_first_answer_a_refusal_is_final() -> None:
    standing = Standing()
    assert standing.refused(1, sent=0.0, now=0.1) is Verdict.FINAL
    assert not standing.has_worked


def test_a_burst_of_refusals_has_one_probe() -> None:
    standing = working()
    verdicts = [standing.refused(call, sent=1.0, now=1.1) for call in range(1, 201)]
    assert verdicts == [Verdict.PROBE] + [Verdict.WAIT] * 199


def test_all_who_wait_go_on_when_the_probe_is_answered() -> None:
    standing = working()
    told = Told(standing)
    for call in range(1, 4):
        standing.refused(call, sent=1.0, now=1.1)
    told.wait(2)
    told.wait(3)
    standing.answered(9, sent=1.0)  # of before the doubt: it says nothing
    assert told.verdicts == {}
    standing.answered(1, sent=6.0)
    assert told.verdicts == {2: Verdict.AGAIN, 3: Verdict.AGAIN}
    assert standing.is_sound
    assert not standing.wait(4, lambda verdict: None)


def test_all_who_wait_end_when_the_probe_is_refused() -> None:
    standing = working()
    told = Told(standing)
    standing.refused(1, sent=1.0, now=1.1)
    standing.refused(2, sent=1.0, now=1.1)
    told.wait(2)
    assert standing.refused(1, sent=6.0, now=6.1, probed=True) is Verdict.FINAL
    assert told.verdicts == {2: Verdict.FINAL}
    assert standing.refused(3, sent=6.0, now=6.2) is Verdict.FINAL
    standing.answered(4, sent=100.0)
    assert standing.refused(5, sent=101.0, now=101.1) is Verdict.PROBE


def test_a_refusal_from_before_the_probe_is_no_news() -> None:
    standing = working()
    standing.refused(1, sent=1.0, now=1.1)
    standing.answered(1, sent=6.0)
    assert standing.refused(2, sent=5.0, now=6.5) is Verdict.AGAIN
    assert standing.refused(2, sent=6.6, now=6.7) is Verdict.PROBE


def test_who_leaves_without_an_outcome_has_an_heir() -> None:
    standing = working()
    told = Told(standing)
    for call in range(1, 4):
        standing.refused(call, sent=1.0, now=1.1)
    told.wait(2)
    told.wait(3)
    standing.left(1)
    assert told.verdicts == {2: Verdict.PROBE}
    standing.left(3)  # cancelled while it waited
    standing.left(2)
    assert standing.is_sound
    assert standing.refused(4, sent=7.0, now=7.1) is Verdict.PROBE


def test_what_was_confirmed_elsewhere_has_worked() -> None:
    standing = Standing()
    standing.confirm()
    assert standing.refused(1, sent=0.0, now=0.1) is Verdict.PROBE


def test_thousands_whose_loop_was_closed_are_passed_over() -> None:
    standing = working()
    assert standing.refused(1, sent=1.0, now=1.1) is Verdict.PROBE
    told = Told(standing)
    for call in range(2, 3000):
        standing.wait(call, lambda verdict: None, is_gone=lambda: True)
    told.wait(3000)
    standing.left(1)
    assert told.verdicts == {3000: Verdict.PROBE}
    standing.left(3000)
    assert standing.is_sound


def test_who_is_gone_is_not_waited_for() -> None:
    standing = working()
    gone = False
    standing.refused(1, sent=1.0, now=1.1, is_gone=lambda: gone)
    told = Told(standing)
    told.wait(2)
    standing.look()
    assert not told.verdicts
    gone = True
    standing.look()
    assert told.verdicts == {2: Verdict.PROBE}
    standing.left(2)
    gone = False
    assert standing.refused(3, sent=2.0, now=2.1, is_gone=lambda: gone) is Verdict.PROBE
    gone = True
    assert standing.refused(4, sent=2.0, now=2.1) is Verdict.PROBE
