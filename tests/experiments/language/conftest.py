"""A data folder of made-up texts, and runs small enough for every run of the tests."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.experiments.language.config import FineTuningConfig, OptimizerConfig
from segue.experiments.language.models import ModelConfig
from segue.experiments.language.setting import Setting
from segue.experiments.language.train import pretrain
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, Store

WORDS = re.findall(
    r"\w+",
    "the lobster of a river was built in old town and many people saw its long bridge when they "
    "came to the sea with ships under king and queen who ruled for years before war",
)
SETTING = Setting(
    model=ModelConfig(
        vocab_size=300,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        max_length=48,
    ),
    budgets=(4, 8),
    num_target_steps=12,
    num_smoothing_steps=4,
)
SMALL: dict[str, Any] = {
    "num_curve_examples": 4,
    "num_test_examples": 8,
    "num_generated_answers": 3,
}


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(6, 14))) + " ."


def article(number: int) -> str:
    draw = random.Random(f"article {number}")
    body = "\n ".join(sentence(draw) for _ in range(12))
    return f" = Title {number} = \n \n {body} \n = = Part = = \n {sentence(draw)} \n"


def problem(number: int) -> dict[str, str]:
    a, b = number % 7 + 1, number % 5 + 2
    return {
        "question": f"{' '.join(random.Random(number).choices(WORDS, k=3))}, {a} nets and {b} more.",
        "answer": f"{a}+{b}={a + b}\n#### {a + b}",
    }


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in the layout of the real one."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "text"
    folder.mkdir()
    for name, numbers in (("valid", range(20)), ("test", range(20, 40))):
        text = "\n" + "".join(map(article, numbers))
        (folder / f"wikitext2-{name}.txt").write_text(text)
    draw = random.Random("plays")
    speeches = [f"KING {n}:\n{sentence(draw).upper()}\n{sentence(draw)}" for n in range(120)]
    (folder / "tinyshakespeare.txt").write_text("\n\n".join(speeches))
    lines = [json.dumps(problem(number)) for number in range(200)]
    (folder / "gsm8k-train.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def store(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run folder with the pretraining of seed 0."""
    store = Store(tmp_path_factory.mktemp("runs"))
    source = SETTING.fine_tuning("gsm8k", 4, "hard_switch", 0, 1e-2).source
    result = pretrain(source, RunContext(source, store, str(texts)))
    assert result.artifact is not None
    save_checkpoint(store.artifact(source), dict(result.artifact))
    return store


@pytest.fixture
def make() -> Callable[..., FineTuningConfig]:
    """Makes a small fine-tuning: ``make(method, target="gsm8k", **changes)``."""

    def config(method: str, target: str = "gsm8k", **changes: Any) -> FineTuningConfig:
        made = SETTING.fine_tuning(
            target, 8, method, 0, 1e-2, **{"batch_size": 4, **SMALL, **changes}
        )
        bank = replace(made.method, num_bank_examples=16, replay_batch_size=4)
        return replace(made, method=bank, optimizer=OptimizerConfig(1e-2))

    return config
