"""``segue respond`` and ``segue judge``: from runs to a table, against a real local server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segue import cli
from segue.judge.responses import Response, add_responses, read_responses, start_responses

REFERENCE = {
    "shift": {"name": "tulu_v1"},
    "revision": "step447000-tokens1874B",
    "method": {"name": "hard_switch"},
    "optimizer": {"learning_rate": 1e-5},
    "seed": 0,
}


def written(path: Path, words: str, **changes: Any) -> Path:
    """A file of three answers, of a run of the paper's preset."""
    config = {**REFERENCE, **changes}
    start_responses(path, {"target": config["shift"]["name"], "config": config})
    add_responses(path, [Response(f"prompt {n}", f"{words} {n}", 4, True) for n in range(3)])
    return path


def run(*arguments: Any) -> None:
    cli.main([str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        written(tmp_path / "reference.jsonl", "plain"),
        written(tmp_path / "good.jsonl", "better", method={"name": "smoothing"}),
        written(tmp_path / "bad.jsonl", "worse", seed=1),
    ]


def prefers(question: str) -> str:
    answers = dict(re.findall(r"<answer (A|B)>\n(\w+) \d", question))
    order = ["better", "plain", "worse"]
    return min(answers, key=lambda letter: order.index(answers[letter]))


def judging(judge: Any, tmp_path: Path, *files: Path) -> list[Any]:
    return [
        "judge",
        *files,
        *("--base-url", judge.url, "--model", "judge"),
        *("--cache", tmp_path / "cache.jsonl", "--out", tmp_path / "judged.json"),
    ]


def test_candidates_are_judged_against_the_papers_reference_and_a_rerun_asks_nothing(
    judge: Any, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reply = prefers
    command = judging(judge, tmp_path, *files)
    run(*command)
    printed = capsys.readouterr().out
    assert "Answers against reference, judged by judge" in printed
    assert "12 calls of the judge, 0 answers from" in printed
    first = (tmp_path / "judged.json").read_bytes()
    content = json.loads(first)
    rates = {c["candidate"]: c["summary"]["win_rate"]["value"] for c in content["candidates"]}
    assert rates == {"good.jsonl": 1.0, "bad.jsonl": 0.0}
    assert content["judge"]["max_tokens"] == 8
    assert str(tmp_path) not in first.decode()
    judge.close()  # a rerun needs no server
    run(*command)
    assert "0 calls of the judge, 12 answers from" in capsys.readouterr().out
    assert (tmp_path / "judged.json").read_bytes() == first


def test_another_reference_can_be_named(
    judge: Any, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reply = prefers
    run(*judging(judge, tmp_path, files[0]), "--reference", files[1])
    assert "Answers against good, judged by judge" in capsys.readouterr().out
    (judged,) = json.loads((tmp_path / "judged.json").read_text())["candidates"]
    assert [each["outcome"] for each in judged["judgements"]] == ["loss"] * 3


def test_what_cannot_be_judged_ends_in_one_line(
    judge: Any, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, *judging(judge, tmp_path, *files[1:]))
    assert error.startswith("segue: found no run that is the paper's reference (target tulu_v1")
    other = written(tmp_path / "other.jsonl", "x", shift={"name": "anthropic_hh"})
    error = fails(capsys, *judging(judge, tmp_path, other), "--reference", files[0])
    assert "must have one target, got anthropic_hh and tulu_v1" in error
    error = fails(capsys, *judging(judge, tmp_path, files[0]))
    assert "must name a candidate, got the reference alone" in error
    assert judge.num_received == 0
    judge.close()
    error = fails(capsys, *judging(judge, tmp_path, *files))
    assert error.startswith(f"segue: the judge judge is away: the server at {judge.url}")


def test_a_folder_without_kept_weights_says_which_preset_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, "respond", tmp_path / "out", "--runs", tmp_path)
    assert "found no run with kept weights" in error
    assert "segue run language --preset judged" in error
    error = fails(capsys, "respond", tmp_path / "out", "--model", "somewhere")
    assert "prompts must name a file" in error
    error = fails(
        capsys,
        "respond",
        tmp_path,
        "--runs",
        tmp_path,
        "--run",
        "x",
        "--paper-reference",
        "tulu_v1",
    )
    assert "run must not be named together with paper_reference" in error
    error = fails(capsys, "respond", tmp_path, "--runs", tmp_path, "--paper-reference", "tulu_v1")
    assert "found no run that is the paper's reference (target tulu_v1" in error


def test_runs_answer_and_what_is_there_is_not_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segue.experiments.language.models import ModelConfig
    from segue.experiments.language.setting import Setting
    from segue.runs.execution import execute

    size = ModelConfig(300, 16, 1, 2, 32, 48)
    setting = Setting(size, budgets=(4,), num_target_steps=4, num_smoothing_steps=2)
    texts = tmp_path / "data"
    texts.mkdir()
    words = re.findall(r"\w+", "the river of a town was built in old stone and many saw its bridge")
    body = "\n ".join(" ".join(words[n % 7 :] + words[: n % 7]) for n in range(20))
    for name, numbers in (("valid", range(10)), ("test", range(10, 20))):
        articles = "".join(f" = Title {n} = \n \n {n} {body} \n" for n in numbers)
        (texts / f"wikitext2-{name}.txt").write_text(f"\n{articles}")
    speeches = [f"KING:\nmy lord {n} of the {words[n % 9]}" for n in range(60)]
    (texts / "tinyshakespeare.txt").write_text("\n\n".join(speeches))
    configs = [
        setting.fine_tuning(
            "shakespeare", 4, method, 0, 1e-2, keep_weights=True, num_test_examples=4, batch_size=2
        )
        for method in ("hard_switch", "lr_warmup")
    ]
    runs, out = tmp_path / "runs", tmp_path / "responses"
    execute(configs, runs, num_workers=0, data_root=str(texts))
    command = ["respond", out, "--runs", runs, "--data", texts, "--num-prompts", 4]
    run(*command, "--max-new-tokens", 5)
    assert capsys.readouterr().out.count("4 answers") == 2
    files = sorted(out.glob("*.jsonl"))
    assert [file.name.split("-")[2] for file in files] == ["hard_switch", "lr_warmup"]
    before = [file.read_bytes() for file in files]
    run(*command, "--max-new-tokens", 5)
    assert [file.read_bytes() for file in files] == before
    assert read_responses(files[0]).target == "shakespeare"
    one = read_responses(files[1]).description["run_id"]
    run(*command, "--max-new-tokens", 5, "--run", one[:8])
    error = fails(capsys, *command, "--run", "absent")
    assert "found no run absent with kept weights" in error
    assert one in error
    error = fails(capsys, *command, "--max-new-tokens", 6)
    assert "(max_new_tokens differ)" in error
