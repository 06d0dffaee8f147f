"""What the client does when a server fails, hangs, refuses or is away."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from segue.judge.cache import AnswerCache, request_key
from segue.judge.client import JudgeServer, JudgeUnavailableError
from segue.judge.lines import append_lines, exclusive, read_lines
from segue.judge.pairwise import JudgeSettings, ask
from segue.judge.template import Template

SETTINGS = JudgeSettings("judge", template=Template("{prompt}|{first}|{second}"))
QUESTIONS = [f"question {number}" for number in range(6)]


@pytest.mark.parametrize("failure", [500, 503, 429, 408, "drop", "hang"])
def test_a_failure_that_passes_is_asked_again(judge: Any, failure: Any) -> None:
    judge.failures = [failure]
    server = JudgeServer(judge.url, timeout_seconds=0.4, max_retries=2)
    assert server.answer("question", SETTINGS) == "A"
    assert judge.num_received == 2


def test_the_request_is_the_papers(judge: Any) -> None:
    JudgeServer(judge.url).answer("question", SETTINGS)
    (request,) = judge.requests
    assert request["temperature"] == 0
    assert request["max_tokens"] == 8
    assert request["model"] == "judge"


def test_a_server_that_is_away_is_named_before_anything_is_asked(
    judge: Any, tmp_path: Path
) -> None:
    url = judge.url
    judge.close()
    with pytest.raises(JudgeUnavailableError, match="the judge judge is away") as caught:
        ask(JudgeServer(url), QUESTIONS, SETTINGS, AnswerCache(tmp_path / "cache.jsonl"))
    assert url in str(caught.value)
    assert not (tmp_path / "cache.jsonl").exists()


def test_a_model_that_is_not_served_is_refused_with_those_that_are(
    judge: Any, tmp_path: Path
) -> None:
    judge.model = "smollm2-135m"
    settings = JudgeSettings("smollm2")
    with pytest.raises(ValueError, match=r"unknown model 'smollm2'.*Known: smollm2-135m"):
        ask(JudgeServer(judge.url), QUESTIONS, settings, AnswerCache(tmp_path / "cache.jsonl"))
    assert judge.num_received == 0


def test_an_address_without_its_ending_says_so(judge: Any) -> None:
    with pytest.raises(JudgeUnavailableError, match=r"status 404; check the address .*/v1"):
        JudgeServer(judge.url.removesuffix("/v1")).check("judge")


def test_a_missing_key_names_its_variable(judge: Any) -> None:
    judge.models_status = 401
    with pytest.raises(JudgeUnavailableError, match=r"status 401; .*OPENAI_API_KEY"):
        JudgeServer(judge.url).check("judge")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url must be like http://localhost:8000/v1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be positive"),
        ({"max_retries": -1}, "max_retries must be >= 0, got -1"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeServer(**{"base_url": "http://localhost:1/v1", **arguments})


def test_a_missing_library_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "openai":
            raise ImportError("no openai")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "segue\[judge\]"'):
        JudgeServer("http://localhost:1/v1")


def test_a_rerun_costs_no_call_and_needs_no_server(judge: Any, tmp_path: Path) -> None:
    path, server = tmp_path / "cache.jsonl", JudgeServer(judge.url)
    first = ask(server, QUESTIONS, SETTINGS, AnswerCache(path))
    assert (first.num_calls, first.num_cached, judge.num_received) == (6, 0, 6)
    judge.close()
    again = ask(server, QUESTIONS, SETTINGS, AnswerCache(path))
    assert (again.num_calls, again.num_cached) == (0, 6)
    assert again.by_question == first.by_question


def test_a_run_that_ends_early_keeps_what_it_has_and_goes_on(judge: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    judge.always_fail_after = 3
    with pytest.raises(JudgeUnavailableError, match=r"status 500 .*the same command goes on"):
        ask(
            JudgeServer(judge.url, max_retries=1),
            QUESTIONS,
            SETTINGS,
            AnswerCache(path),
            num_parallel=1,
        )
    assert len(read_lines(path)) == 3
    judge.always_fail_after = None
    done = ask(JudgeServer(judge.url), QUESTIONS, SETTINGS, AnswerCache(path))
    assert (done.num_calls, done.num_cached) == (3, 3)
    assert sorted(judge.questions) == QUESTIONS


def test_the_same_question_is_asked_once(judge: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    ask(JudgeServer(judge.url), ["same", "same"], SETTINGS, AnswerCache(path))
    assert judge.num_received == 1


@pytest.mark.parametrize(
    "other",
    [
        JudgeSettings("another"),
        JudgeSettings("judge", temperature=0.5),
        JudgeSettings("judge", max_tokens=9),
    ],
)
def test_a_key_depends_on_the_whole_request(other: JudgeSettings) -> None:
    settings = JudgeSettings("judge")
    assert request_key(settings.request("q")) == request_key(JudgeSettings("judge").request("q"))
    assert request_key(settings.request("q")) != request_key(other.request("q"))
    assert request_key(settings.request("q")) != request_key(settings.request("r"))


def test_a_torn_last_line_is_passed_over_and_nothing_is_joined_to_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    append_lines(path, [{"key": "a", "model": "m", "answer": "A"}])
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[:20])  # killed while it wrote a second line
    assert len(AnswerCache(path)) == 1
    append_lines(path, [{"key": "b", "model": "m", "answer": "B"}])
    assert path.read_bytes().startswith(whole)
    assert [line["answer"] for line in read_lines(path)] == ["A", "B"]


def test_a_damaged_or_edited_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    append_lines(path, [{"key": k, "model": "m", "answer": "A"} for k in "ab"])
    lines = path.read_text().splitlines()
    edited = json.dumps({**json.loads(lines[1]), "answer": "B"})
    path.write_text(f"{lines[0]}\n{edited}\n")
    with pytest.raises(ValueError, match=r"line 2 of .*cache.jsonl must have the content of its"):
        AnswerCache(path)
    path.write_text(f"no json\n{lines[1]}\n")
    with pytest.raises(ValueError, match=r"line 1 of .* must be whole"):
        AnswerCache(path)


def test_two_writers_do_not_share_a_file(judge: Any, tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    with exclusive(path), pytest.raises(OSError, match="another process writes"):
        ask(JudgeServer(judge.url), QUESTIONS, SETTINGS, AnswerCache(path))
    assert judge.num_received == 0
