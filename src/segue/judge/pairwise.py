"""Pairs of answers in both orders: a win or loss is what the judge says whatever the order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from segue.checks import check_at_least_one, check_not_negative
from segue.judge.cache import AnswerCache, request_key
from segue.judge.client import RequestRefusedError
from segue.judge.responses import Responses
from segue.judge.template import DEFAULT_TEMPLATE, Choice, Template, parse_choice

__all__ = [
    "Answers", "Judge", "JudgeSettings", "Judgement", "Outcome", "Pair", "ask", "judge_pair",
    "make_pairs",
]  # fmt: skip

Outcome = Literal["win", "tie", "loss", "unparsable", "refused"]
"""For the candidate; the last two are no verdict."""


class Judge(Protocol):
    """Who answers questions: :class:`~segue.judge.client.JudgeServer`."""

    def check(self, model: str) -> None:
        """Raise if nothing can be asked."""
        ...

    def answer(self, question: str, settings: JudgeSettings) -> str:
        """Answer a question."""
        ...


@dataclass(frozen=True)
class JudgeSettings:
    """What a verdict depends on, beside the answers; by default the paper's.

    Attributes:
        model: The judge, as its server calls it.
        temperature: 0 takes the likeliest tokens.
        max_tokens: Most tokens of the judge's answer.
        max_response_characters: Answers are cut to this length before they are judged.
        template: The question.
    """

    model: str
    temperature: float = 0.0
    max_tokens: int = 8
    max_response_characters: int = 12_000
    template: Template = field(default=DEFAULT_TEMPLATE)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must name the judge, got ''")
        check_not_negative("temperature", self.temperature)
        check_at_least_one("max_tokens", self.max_tokens)
        check_at_least_one("max_response_characters", self.max_response_characters)

    def request(self, question: str) -> dict[str, Any]:
        """The body of a request."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class Pair:
    """A candidate's and the reference's answer to one prompt, not cut yet."""

    prompt_id: str
    prompt: str
    candidate: str
    reference: str

    @property
    def is_identical(self) -> bool:
        """Whether both say the same: a tie, which nobody is asked about."""
        return self.candidate.strip() == self.reference.strip()

    def questions(self, settings: JudgeSettings) -> tuple[str, str]:
        """With the candidate first, and with the reference first."""
        most, fill = settings.max_response_characters, settings.template.fill
        candidate, reference = self.candidate[:most], self.reference[:most]
        return (
            fill(prompt=self.prompt, first=candidate, second=reference),
            fill(prompt=self.prompt, first=reference, second=candidate),
        )


@dataclass(frozen=True)
class Judgement:
    """What came out for one pair.

    Attributes:
        prompt_id: The prompt.
        outcome: For the candidate: ``win`` and ``loss`` if both orders agree on it, ``tie`` if they
            do not or both say so; ``unparsable`` if an answer cannot be read, ``refused`` if the
            server refused the question.
        answers: The judge's words, with the candidate first and with the reference first; None
            where there are none.
        is_consistent: Whether both orders say the same of the two; None without two verdicts.
        is_identical: Whether the two answers were the same, so that nobody was asked.
        same_place: Whether the judge took the same place both times, whoever stood there.
        reason: Why the server refused.
    """

    prompt_id: str
    outcome: Outcome
    answers: tuple[str | None, str | None] = (None, None)
    is_consistent: bool | None = None
    is_identical: bool = False
    same_place: bool = False
    reason: str | None = None


@dataclass
class Answers:
    """What the judge said to every question.

    Attributes:
        by_question: Its words.
        refused: Reasons, by question.
        num_calls: Questions that were asked now.
        num_cached: Questions whose answers were kept.
    """

    by_question: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    num_calls: int = 0
    num_cached: int = 0


def make_pairs(candidate: Responses, reference: Responses) -> list[Pair]:
    """Pair the answers of two models to the same prompts.

    Raises:
        ValueError: If their targets, prompts, or largest numbers of tokens differ.
    """
    ours, theirs = candidate.by_prompt, reference.by_prompt
    for name in ("target", "max_new_tokens"):
        values = [each.description.get(name) for each in (candidate, reference)]
        if None not in values and values[0] != values[1]:
            raise ValueError(
                f"candidate and reference must have one {name}, got {values[0]} and {values[1]}"
            )
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"candidate and reference must answer the same prompts; the candidate lacks "
            f"{len(theirs.keys() - ours.keys())} of {len(theirs)}, the reference "
            f"{len(ours.keys() - theirs.keys())} of {len(ours)}: run segue respond for both"
        )
    return [
        Pair(key, theirs[key].prompt, ours[key].text, theirs[key].text) for key in sorted(theirs)
    ]


def ask(
    judge: Judge,
    questions: Iterable[str],
    settings: JudgeSettings,
    cache: AnswerCache,
    *,
    num_parallel: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Answer questions, from the cache where they were asked before.

    The judge is looked for before anything is asked, and only if something is to be asked. Every
    answer is kept at once: a run that ends early goes on where it was.

    Raises:
        JudgeUnavailableError, ValueError: As :class:`~segue.judge.client.JudgeServer` does.
    """
    check_at_least_one("num_parallel", num_parallel)
    answers = Answers()
    keys = {question: request_key(settings.request(question)) for question in questions}
    missing = [question for question, key in keys.items() if key not in cache]
    if missing:
        judge.check(settings.model)
        with cache.writing():
            missing = [question for question in missing if keys[question] not in cache]
            _ask_all(judge, missing, keys, settings, cache, answers, num_parallel, on_progress)
    answers.num_calls = len(missing)
    answers.num_cached = len(keys) - len(missing)
    answers.by_question = {q: cache[key] for q, key in keys.items() if key in cache}
    return answers


def _ask_all(
    judge: Judge,
    questions: Sequence[str],
    keys: Mapping[str, str],
    settings: JudgeSettings,
    cache: AnswerCache,
    answers: Answers,
    num_parallel: int,
    on_progress: Callable[[int, int], None],
) -> None:
    def answer(question: str) -> None:
        try:
            words = judge.answer(question, settings)
        except RequestRefusedError as error:
            answers.refused[question] = str(error)
        else:
            cache.put(keys[question], settings.model, words)

    pool = ThreadPoolExecutor(num_parallel)
    try:
        futures = [pool.submit(answer, question) for question in questions]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            on_progress(done, len(questions))
    finally:  # what is under way ends and is kept; what is not begun never is
        pool.shutdown(cancel_futures=True)


def judge_pair(pair: Pair, settings: JudgeSettings, answers: Answers) -> Judgement:
    """Join what the judge said in both orders into one outcome."""
    if pair.is_identical:
        return Judgement(pair.prompt_id, "tie", is_identical=True)
    first, second = pair.questions(settings)
    words = (answers.by_question.get(first), answers.by_question.get(second))
    if words[0] is None or words[1] is None:
        reason = answers.refused.get(first) or answers.refused.get(second)
        return Judgement(pair.prompt_id, "refused", words, reason=reason)
    choices = (parse_choice(words[0]), parse_choice(words[1]))
    if choices[0] is None or choices[1] is None:
        return Judgement(pair.prompt_id, "unparsable", words)
    winners = (_winner(choices[0], "first"), _winner(choices[1], "second"))
    agree = winners[0] == winners[1]
    return Judgement(
        pair.prompt_id,
        winners[0] if agree else "tie",
        words,
        is_consistent=agree,
        same_place=choices[0] == choices[1] != "tie",
    )


def _winner(choice: Choice, place: Choice) -> Outcome:
    """What a choice means for a candidate that stood at ``place``."""
    if choice == "tie":
        return "tie"
    return "win" if choice == place else "loss"
