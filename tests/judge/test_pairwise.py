"""Pairs in both orders, against a real local server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.judge.cache import AnswerCache
from segue.judge.client import JudgeServer
from segue.judge.pairwise import Judgement, JudgeSettings, Pair, ask, judge_pair, make_pairs
from segue.judge.responses import Response, Responses, prompt_id
from segue.judge.summary import Summary, summarize, summary_table
from segue.judge.template import Template, parse_choice

PLAIN = Template("{prompt}|{first}|{second}")
SETTINGS = JudgeSettings("judge", template=PLAIN)


def pair(number: int, candidate: str, reference: str) -> Pair:
    return Pair(prompt_id(f"prompt {number}"), f"prompt {number}", candidate, reference)


PAIRS = [pair(0, "better", "bad"), pair(1, "bad", "better"), pair(2, "bad", "worse than bad")]


def sees(question: str) -> tuple[str, str]:
    _, first, second = question.split("|")
    return first, second


def fair(question: str) -> str:
    first, second = sees(question)
    return "A" if ("better" in first) else "B" if ("better" in second) else "tie"


def run(
    judge: Any, pairs: list[Pair], path: Path, settings: JudgeSettings = SETTINGS
) -> tuple[list[Judgement], Summary]:
    questions = [q for p in pairs if not p.is_identical for q in p.questions(settings)]
    answers = ask(JudgeServer(judge.url), questions, settings, AnswerCache(path), num_parallel=3)
    judged = [judge_pair(p, settings, answers) for p in pairs]
    return judged, summarize(pairs, judged, max_response_characters=12_000)


def test_a_fair_judge_gives_wins_ties_and_losses_whatever_the_order(
    judge: Any, tmp_path: Path
) -> None:
    judge.reply = fair
    judged, summary = run(judge, PAIRS, tmp_path / "cache.jsonl")
    assert [each.outcome for each in judged] == ["win", "loss", "tie"]
    assert all(each.is_consistent for each in judged)
    asked = {sees(question) for question in judge.questions}
    assert asked == {(p.candidate, p.reference) for p in PAIRS} | {
        (p.reference, p.candidate) for p in PAIRS
    }
    assert summary.win_rate is not None
    assert summary.win_rate.value == 0.5
    assert summary.position_consistency == 1.0
    assert summary.tie_share == pytest.approx(1 / 3)


def test_a_judge_that_prefers_the_first_place_decides_nothing(judge: Any, tmp_path: Path) -> None:
    judge.reply = lambda question: "A"
    judged, summary = run(judge, PAIRS, tmp_path / "cache.jsonl")
    assert [each.outcome for each in judged] == ["tie"] * 3
    assert summary.position_consistency == 0.0
    assert summary.num_same_place == 3


def test_a_tie_in_one_order_only_is_a_tie_and_not_consistent(judge: Any, tmp_path: Path) -> None:
    judge.reply = lambda question: "A" if sees(question)[0] == "better" else "tie"
    (first, *_), _ = run(judge, PAIRS[:1], tmp_path / "cache.jsonl")
    assert (first.outcome, first.is_consistent, first.same_place) == ("tie", False, False)


def test_answers_that_cannot_be_read_are_counted_and_are_no_verdicts(
    judge: Any, tmp_path: Path
) -> None:
    judge.reply = lambda question: "I like" if "prompt 1" in question else fair(question)
    judged, summary = run(judge, PAIRS, tmp_path / "cache.jsonl")
    assert [each.outcome for each in judged] == ["win", "unparsable", "tie"]
    assert judged[1].answers == ("I like", "I like")
    assert summary.num_unparsable == 1
    assert summary.num_judged == 2
    assert summary.win_rate is not None
    assert summary.win_rate.value == 0.75


def test_a_judge_without_any_verdict_has_no_win_rate(judge: Any, tmp_path: Path) -> None:
    judge.reply = lambda question: ""
    _, summary = run(judge, PAIRS, tmp_path / "cache.jsonl")
    assert summary.num_unparsable == 3
    assert (summary.win_rate, summary.tie_share, summary.position_consistency) == (None,) * 3


def test_identical_answers_are_ties_that_nobody_is_asked_about(judge: Any, tmp_path: Path) -> None:
    judged, summary = run(judge, [pair(0, "same", "same\n")], tmp_path / "cache.jsonl")
    assert [each.outcome for each in judged] == ["tie"]
    assert (summary.num_identical, judge.num_received) == (1, 0)
    assert summary.position_consistency is None


def test_a_refused_question_is_named_and_neither_kept_nor_counted(
    judge: Any, tmp_path: Path
) -> None:
    judge.reply, judge.failures = fair, [400]
    path = tmp_path / "cache.jsonl"
    judged, summary = run(judge, PAIRS[:1], path)
    assert judged[0].outcome == "refused"
    assert "status 400 as told" in str(judged[0].reason)
    assert (summary.num_refused, summary.num_judged) == (1, 0)
    judged, _ = run(judge, PAIRS[:1], path)  # the server has changed its mind
    assert judged[0].outcome == "win"


def test_long_answers_are_cut_for_the_judge_and_counted(judge: Any, tmp_path: Path) -> None:
    settings = replace(SETTINGS, max_response_characters=5)
    pairs = [pair(0, "better and longer", "bad")]
    questions = pairs[0].questions(settings)
    assert [sees(question) for question in questions] == [("bette", "bad"), ("bad", "bette")]
    judged, _ = run(judge, pairs, tmp_path / "cache.jsonl", settings)
    summary = summarize(pairs, judged, max_response_characters=5)
    assert (summary.num_cut_candidate, summary.num_cut_reference) == (1, 0)
    assert JudgeSettings("judge").max_response_characters == 12_000


def test_pairs_need_the_same_prompts_and_the_same_target() -> None:
    def responses(target: str | None, *prompts: str) -> Responses:
        made = {prompt_id(p): Response(p, f"about {p}", 3, True) for p in prompts}
        return Responses({} if target is None else {"target": target}, made)

    pairs = make_pairs(responses("plays", "b", "a"), responses(None, "a", "b"))
    assert {(p.prompt, p.candidate) for p in pairs} == {("a", "about a"), ("b", "about b")}
    with pytest.raises(ValueError, match="one target, got plays and problems"):
        make_pairs(responses("plays", "a"), responses("problems", "a"))
    short, long = (Responses({"max_new_tokens": n}, {}) for n in (96, 512))
    with pytest.raises(ValueError, match="one max_new_tokens, got 96 and 512"):
        make_pairs(short, long)
    with pytest.raises(ValueError, match=r"lacks 1 of 2, the reference 0 of 1: run segue respond"):
        make_pairs(responses("plays", "a"), responses("plays", "a", "b"))


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("A", "first"),
        (" B\n", "second"),
        ("**A**", "first"),
        ("[[B]]", "second"),
        ("Answer: A.", "first"),
        ("The better answer is B", "second"),
        ("Answer A is better", "first"),
        ("A, because it", "first"),
        ("tie", "tie"),
        ("Tie.", "tie"),
        ("It's a tie", "tie"),
        ("A tie", "tie"),
        ("A or B", None),
        ("Both A and B", None),
        ("A-level", None),
        ("After that", None),
        ("an answer", None),
        ("a", None),
        ("I think", None),
        ("", None),
    ],
)
def test_words_of_a_judge_are_read_or_left_unread(answer: str, choice: str | None) -> None:
    assert parse_choice(answer) == choice


def test_a_template_must_have_all_its_fields_and_a_version_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"template must contain .*; it lacks \{second\}"):
        Template("{prompt} {first}")
    assert PLAIN.version != Template().version
    filled = Template().fill(prompt="{first}", first="{prompt} {x}", second="{second}")
    assert filled.count("{first}") == 1
    assert "{prompt} {x}" in filled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model must name the judge"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"max_response_characters": 0}, "max_response_characters must be >= 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def judged_as(*outcomes: Any) -> tuple[list[Pair], list[Judgement]]:
    pairs = [pair(number, "a", "b") for number in range(len(outcomes))]
    return pairs, [Judgement(p.prompt_id, o) for p, o in zip(pairs, outcomes, strict=True)]


def test_the_interval_is_a_bootstrap_over_prompts_and_the_same_every_time() -> None:
    pairs, judged = judged_as(*["win"] * 12, *["tie"] * 4, *["loss"] * 4)
    first, again = (summarize(pairs, judged, max_response_characters=9) for _ in range(2))
    assert first == again
    rate = first.win_rate
    assert rate is not None
    assert rate.value == 0.7
    # Normal approximation: 0.7 ± 1.96 · sqrt(0.15 / 20) = 0.53 to 0.87.
    assert (rate.low, rate.high) == (pytest.approx(0.53, abs=0.03), pytest.approx(0.87, abs=0.03))


def test_where_all_outcomes_are_one_the_table_shows_no_interval() -> None:
    pairs, judged = judged_as(*["win"] * 5)
    summary = summarize(pairs, judged, max_response_characters=9)
    assert not summary.has_interval
    assert "100 (no interval)" in render({"c": summary})


def render(summaries: dict[str, Summary]) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        console.print(summary_table(summaries, reference="reference", judge="judge"))
    return captured.get()


def test_the_table_tells_what_is_no_verdict(judge: Any, tmp_path: Path) -> None:
    judge.reply = lambda question: "hm" if "prompt 1" in question else "B"
    _, summary = run(judge, PAIRS, tmp_path / "cache.jsonl")
    text = " ".join(render({"[candidate]": summary}).split())
    assert (
        "[candidate]: of 3 pairs, 1 without a verdict, because the judge could not be read" in text
    )
    assert "2 where the judge took the same place" in text
