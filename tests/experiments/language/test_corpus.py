import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from segue.experiments.language.corpus import (
    Problem,
    check_data,
    load_problems,
    load_shakespeare,
    load_source,
)
from segue.experiments.language.task import Task, load_task
from segue.experiments.language.tokens import (
    ASSISTANT,
    END,
    IGNORED,
    USER,
    final_number,
    pack,
    to_instructions,
    to_prompts,
    train_tokenizer,
)

SPLITS = ("train", "validation", "test")


@pytest.fixture
def tokenizer() -> Any:
    return train_tokenizer(["the cat sat on the mat , the rat sat " * 20], 280)


@pytest.mark.parametrize("load", [load_problems, load_shakespeare])
def test_no_target_text_is_in_two_parts(load: Any, texts: Path) -> None:
    divided = load(texts)
    parts = [set(getattr(divided, split)) for split in SPLITS]
    assert all(parts)
    assert len(set.union(*parts)) == sum(map(len, parts))


def test_held_out_articles_are_whole_and_not_trained_on(texts: Path) -> None:
    source = load_source(texts)
    assert (len(source.train), len(source.test)) == (36, 4)
    assert not set(source.train) & set(source.test)
    assert all(str(text).startswith(" = Title ") for text in (*source.train, *source.test))
    assert load_source(texts) == source  # for every seed the same


def test_an_article_that_stands_in_both_files_is_on_one_side(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    once = (texts / "text" / "wikitext2-valid.txt").read_text()
    for name in ("valid", "test"):
        (tmp_path / "text" / f"wikitext2-{name}.txt").write_text(once)
    source = load_source(tmp_path)
    assert len(source.train) + len(source.test) == 20


@pytest.mark.parametrize("target", ["shakespeare", "gsm8k", "gsm8k_instructions"])
def test_no_held_out_sequence_is_trained_on(target: str, texts: Path) -> None:
    task = load_task(target, 300, 48, str(texts))
    for parts in (task.source, task.target):
        rows = {
            split: {tuple(row) for row in sets.tokens.tolist()} for split, sets in parts.items()
        }
        for split in set(rows) - {"train"}:
            assert rows[split]
            assert not rows["train"] & rows[split]


def test_the_tokenizer_has_seen_the_training_articles_alone(texts: Path) -> None:
    import tokenizers

    source = load_source(texts)
    task = load_task("gsm8k", 300, 48, str(texts))
    alone = train_tokenizer([str(text) for text in source.train], 300)
    assert tokenizers.Tokenizer.from_str(task.tokenizer).to_str() == alone.to_str()


def test_any_text_survives_the_tokenizer_and_digits_stay_apart(tokenizer: Any) -> None:
    for text in ("the cat", "naïve — 数学 \t\n", "1234"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("1234").ids) == 4
    assert [tokenizer.token_to_id(token) for token in (END, USER, ASSISTANT)] == [0, 1, 2]


def test_instructions_count_the_answer_and_its_end_only(tokenizer: Any) -> None:
    problem = Problem("how many cats", "two\n#### 2")
    data = to_instructions(tokenizer, [problem], 64)
    tokens, labels = data.tokens[0].tolist(), data.labels[0].tolist()
    question, answer = (tokenizer.encode(text).ids for text in problem)
    assert tokens[: len(question) + 2] == [1, *question, 2]
    counted = [label for label in labels if label != IGNORED]
    assert counted == [*answer, 0]
    start = len(question) + 2
    assert labels[start : start + len(counted)] == counted
    assert tokens[start + len(counted) :] == [0] * (64 - start - len(counted))


def test_a_problem_that_is_too_long_is_left_out_and_never_cut(tokenizer: Any) -> None:
    short, long = Problem("a", "1\n#### 1"), Problem("b" * 80, "1\n#### 1")
    assert len(to_instructions(tokenizer, [long, short, long], 40).tokens) == 1
    assert len(to_prompts(tokenizer, [long, short], 40, chat=True)) == 1
    with pytest.raises(ValueError, match="at least one problem must have <= 40 tokens, got none"):
        to_instructions(tokenizer, [long], 40)


def test_prompts_end_where_the_answer_begins(tokenizer: Any) -> None:
    problem = Problem("how many", "#### 1,000")
    (chat,) = to_prompts(tokenizer, [problem], 64, chat=True)
    assert (chat.tokens[0], chat.tokens[-1], chat.number) == (1, 2, "1000")
    (plain,) = to_prompts(tokenizer, [problem], 64, chat=False)
    assert tokenizer.decode(list(plain.tokens)) == "Question: how many\nAnswer:"


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 72", "72"), ("x\n#### -3.5.", "-3.5"), ("#### 1,200", "1200"), ("72", None)],
)
def test_the_final_number_is_what_follows_the_hashes(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_packing_keeps_the_order_and_ends_every_text(tokenizer: Any) -> None:
    data = pack(tokenizer, ["the cat", "the mat"], 2)
    stream = [*tokenizer.encode("the cat").ids, 0, *tokenizer.encode("the mat").ids, 0]
    assert data.tokens.flatten().tolist() == stream[: len(stream) // 2 * 2]
    with pytest.raises(ValueError, match="the text must have at least 99 tokens"):
        pack(tokenizer, ["the cat"], 99)


def test_what_was_cached_equals_what_was_made(texts: Path, tmp_path: Path) -> None:
    from segue.experiments.language import task as module

    def load() -> Task:
        module._tasks.clear()
        return load_task("gsm8k_instructions", 300, 48, str(texts), tmp_path)

    first, second = load(), load()
    assert first.fingerprint == second.fingerprint
    assert first.prompts == second.prompts
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])  # a broken cache is made anew
    assert load().fingerprint == first.fingerprint


def test_missing_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no wikitext2-valid.txt, .*SEGUE_DATA"):
        check_data(str(tmp_path))
    with pytest.raises(ValueError, match="pass --data or set SEGUE_DATA"):
        load_source(None)


@pytest.mark.parametrize("line", ["no json", '{"question": "q"}', '{"question": 1, "answer": 2}'])
def test_a_broken_problem_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    good = json.dumps({"question": "q", "answer": "#### 1"})
    (tmp_path / "gsm8k-train.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=r"line 2 of .*gsm8k-train.jsonl must be a JSON object"):
        load_problems(tmp_path)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    for name in ("valid", "test"):
        (tmp_path / f"wikitext2-{name}.txt").write_text("no headings here")
    with pytest.raises(ValueError, match=r"must hold at least five articles .* got 1"):
        load_source(tmp_path)
    with pytest.raises(ValueError, match=r"vocab_size must be >= 259 .* got 100"):
        train_tokenizer(["text"], 100)


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("SEGUE_DATA"), reason="SEGUE_DATA names no data folder")
def test_the_real_texts_are_divided_without_overlap() -> None:
    root = os.environ["SEGUE_DATA"]
    check_data(root)
    source = load_source(root)
    assert (len(source.train), len(source.test)) == (108, 12)
    paragraphs = [
        {line for text in part for line in str(text).split("\n") if len(line) > 100}
        for part in (source.train, source.test)
    ]
    assert len(paragraphs[1]) > 100
    assert not paragraphs[0] & paragraphs[1]
    problems = load_problems(root)
    assert [len(getattr(problems, split)) for split in SPLITS] == [5979, 747, 747]
    assert all(
        final_number(p.answer)
        for p in random.Random(0).sample(problems.train, 50)  # type: ignore[union-attr]
    )
