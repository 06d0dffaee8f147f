"""Runs on made-up texts, small enough for every run of the tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import segue
from segue.batches import hash_content
from segue.experiments.language.config import FineTuningConfig, OptimizerConfig, PretrainingConfig
from segue.experiments.language.fine_tuning import FineTuning
from segue.experiments.language.loop import (
    build_optimizer,
    evaluate,
    exact_match,
    set_weights,
    weights_of,
)
from segue.experiments.language.methods import METHODS
from segue.experiments.language.models import ModelConfig, add_lora, build_model
from segue.experiments.language.task import load_task
from segue.experiments.language.tokens import IGNORED, Prompt, TokenSet, train_tokenizer
from segue.experiments.language.train import fine_tune, pretrain, weights_at
from segue.experiments.training import learning_rate
from segue.runs.checkpoint import load_checkpoint
from segue.runs.context import RunContext, RunResult, Store

MODEL = ModelConfig(
    vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_length=48
)
SOURCE = PretrainingConfig(MODEL, 0, (4, 8))
Make = Callable[..., FineTuningConfig]


class Killed(Exception):
    pass


@pytest.fixture
def run(store: Store, texts: Path) -> Callable[[Any], RunResult]:
    """Runs a configuration from its beginning to its end."""
    return lambda config: config.execute(RunContext(config, store, str(texts)))


def digest(result: RunResult) -> str:
    assert result.weights is not None
    return hash_content(dict(result.weights))


def kill_at(config: Any, store: Store, texts: Path, step: int) -> None:
    """Run until ``step`` steps are done, with a checkpoint after each, and leave it there."""

    def report(done: int, total: int) -> None:
        if done > step:
            raise Killed

    context = RunContext(config, store, str(texts), report=report, checkpoint_steps=1)
    with pytest.raises(Killed):
        config.execute(context)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_resumes_bitwise_and_differs_from_the_hard_switch(
    name: str, make: Make, run: Any, store: Store, texts: Path
) -> None:
    config = make(name, "gsm8k_instructions")
    undisturbed = run(config)
    kill_at(config, store, texts, 3)  # inside the ramp of four steps
    resumed = run(config)
    store.checkpoint(config).unlink()
    assert digest(resumed) == digest(undisturbed)
    assert resumed.metrics == undisturbed.metrics
    assert resumed.curves == undisturbed.curves
    assert undisturbed.curves["target_loss"]["step"][0] == 0
    assert undisturbed.curves["target_loss"]["step"][-1] == 12
    assert undisturbed.metrics["target_loss"] < undisturbed.metrics["target_loss_before"]
    hard = run(make("hard_switch", "gsm8k_instructions"))
    assert (digest(hard) == digest(undisturbed)) == (name == "hard_switch")


def test_a_pretraining_resumes_bitwise_and_keeps_every_budget(
    store: Store, texts: Path, tmp_path: Path
) -> None:
    whole = load_checkpoint(store.artifact(SOURCE))
    mine = Store(tmp_path)
    kill_at(SOURCE, mine, texts, 5)
    resumed = pretrain(SOURCE, RunContext(SOURCE, mine, str(texts)))
    assert resumed.artifact is not None
    assert hash_content(dict(resumed.artifact)) == hash_content(whole)
    assert {name.partition("/")[0] for name in whole} == {"00000004", "00000008"}
    assert resumed.curves["source_loss"]["step"] == [4, 8]
    first, last = resumed.curves["source_loss"]["value"]
    assert last < first


def test_a_checkpoint_is_what_a_pretraining_of_that_length_gives(
    store: Store, texts: Path, tmp_path: Path
) -> None:
    short = replace(SOURCE, checkpoint_steps=(4,))
    alone = pretrain(short, RunContext(short, Store(tmp_path), str(texts))).artifact
    assert alone is not None
    longer = weights_at(load_checkpoint(store.artifact(SOURCE)), 4)
    assert hash_content(weights_at(alone, 4)) == hash_content(longer)
    with pytest.raises(ValueError, match="must be a checkpoint of the source, got 5"):
        weights_at(alone, 5)


@pytest.mark.parametrize(
    ("name", "num_examples", "num_target_examples"),
    [
        ("hard_switch", 48, 48),
        ("smoothing", 48 + 16, 48),
        ("constant_replay", 96, 48),
        ("target_ramp", 48, 48),
        ("lora_smoothing", 48 + 16, 48),
        ("recadam_anneal", 48, 48),
        ("smoothing_mixed", 48, 48 - (4 + 3 + 2 + 1)),
        ("replay_25_percent", 48, 36),
        ("replay_50_percent", 48, 24),
    ],
)
def test_compute_and_tokens_are_counted_apart(
    name: str, num_examples: int, num_target_examples: int, make: Make, run: Any
) -> None:
    config = make(name, "shakespeare")
    metrics = run(config).metrics
    assert metrics["num_gradient_examples"] == num_examples == config.cost()
    assert metrics["num_gradient_tokens"] == num_examples * 48
    assert metrics["num_target_examples_used"] == num_target_examples
    assert metrics["num_target_tokens_used"] == num_target_examples * 47
    assert metrics["num_source_tokens_used"] == (num_examples - num_target_examples) * 47
    assert metrics["num_pretraining_tokens"] == 8 * 16 * 48


def test_the_hard_switch_is_the_plain_loop(make: Make, run: Any, store: Store, texts: Path) -> None:
    config = make("hard_switch", "gsm8k_instructions")
    task = load_task("gsm8k_instructions", 300, 48, str(texts))
    model = build_model(MODEL, seed=5).train()
    set_weights(model, weights_at(load_checkpoint(store.artifact(SOURCE)), 8))
    optimizer = build_optimizer(config.optimizer, model)
    stream = segue.Replay(task.target["train"], num_examples=None, batch_size=4, seed=0)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = learning_rate(1e-2, step, 12, 0)
        batch = next(stream)
        logits = model(input_ids=batch.tokens).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            batch.labels[:, 1:].flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        (losses.view(4, 47).sum() / (batch.labels[:, 1:] != IGNORED).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert hash_content(weights_of(model)) == digest(run(config))


@pytest.mark.parametrize("name", ["smoothing", "l2sp", "recadam_anneal"])
def test_micro_batches_equal_the_whole_batch_for_both_token_means(
    name: str, make: Make, store: Store, texts: Path
) -> None:
    gradients = []
    for number in (1, 2, 4):
        config = make(name, "gsm8k_instructions", num_micro_batches=number)
        task = load_task("gsm8k_instructions", 300, 48, str(texts))
        model = build_model(MODEL, seed=0).double()
        tuning = FineTuning(config, task, model)
        for _ in range(3):
            tuning.train_step()
        gradients.append(weights_of(tuning.model))
    for other in gradients[1:]:
        for weight, value in gradients[0].items():
            torch.testing.assert_close(other[weight], value, rtol=1e-8, atol=1e-10)


def test_constant_one_trains_on_the_source_alone(make: Make, store: Store, texts: Path) -> None:
    config = make("constant_replay")
    schedule = replace(config.method.schedule, initial_weight=1.0)
    config = replace(config, method=replace(config.method, schedule=schedule))
    other = replace(config, shift=replace(config.shift, name="shakespeare"))
    results = [fine_tune(c, RunContext(c, store, str(texts))) for c in (config, other)]
    assert digest(results[0]) == digest(results[1])  # whatever the target


def test_mixed_batches_have_the_token_mean_in_expectation(
    make: Make, store: Store, texts: Path
) -> None:
    task = load_task("gsm8k_instructions", 300, 48, str(texts))
    tuning = FineTuning(
        make("replay_25_percent", "gsm8k_instructions"), task, build_model(MODEL, seed=0)
    )
    with torch.no_grad():
        mean = sum(float(tuning._mixed_loss(next(tuning.target))) for _ in range(300)) / 300
    bank = [next(tuning.replay) for _ in range(4)]  # type: ignore[call-overload]
    source = evaluate(tuning.model, TokenSet(*(torch.cat(p) for p in zip(*bank, strict=True))))[0]
    target = evaluate(tuning.model, task.target["train"])[0]
    assert mean == pytest.approx(0.25 * source + 0.75 * target, rel=0.01)


def test_lora_trains_its_updates_only_and_starts_where_the_source_ended(
    make: Make, store: Store, texts: Path
) -> None:
    source = weights_at(load_checkpoint(store.artifact(SOURCE)), 8)
    config = make("lora")
    result = fine_tune(config, RunContext(config, store, str(texts)))
    assert result.weights is not None
    frozen = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in result.weights.items()
        if "lora_" not in name
    }
    assert hash_content({name: frozen[name] for name in source}) == hash_content(source)
    assert result.metrics["target_loss_before"] == pytest.approx(
        fine_tune(make("hard_switch"), RunContext(make("hard_switch"), store, str(texts))).metrics[
            "target_loss_before"
        ]
    )


def test_building_a_model_leaves_the_global_random_state() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    add_lora(build_model(MODEL, seed=1), 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert build_model(MODEL, seed=1).num_parameters() == MODEL.num_parameters  # type: ignore[operator]


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(make: Make, run: Any) -> None:
    assert digest(run(make("smoothing"))) == digest(run(make("smoothing")))
    with pytest.raises(ValueError, match=r"seed must be the source's \(0\), got 1"):
        replace(make("smoothing"), seed=1)


def test_evaluation_is_a_mean_over_the_tokens_that_count() -> None:
    model = build_model(MODEL, seed=0).train()
    tokens = torch.randint(300, (5, 48), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, 10:] = IGNORED
    labels[0] = IGNORED
    loss, accuracy = evaluate(model, TokenSet(tokens, labels), batch_size=2)
    logits = model(input_ids=tokens).logits[1:, :9]
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:, 1:10].flatten())
    assert loss == pytest.approx(want.item(), rel=1e-5)
    assert accuracy == (logits.argmax(-1) == tokens[1:, 1:10]).float().mean().item()
    assert model.training
    assert evaluate(model, TokenSet(tokens, torch.full_like(tokens, IGNORED))) == (0.0, 0.0)


def test_exact_match_follows_the_greedy_answer_of_each_prompt(texts: Path) -> None:
    import tokenizers

    task = load_task("gsm8k_instructions", 300, 48, str(texts))
    tokenizer = tokenizers.Tokenizer.from_str(task.tokenizer)
    model = build_model(MODEL, seed=0)
    prompts = task.prompts["test"][:3]
    written = tokenizer.encode("#### 7").ids
    # What follows the assistant token is written by a model that knows this one answer.
    sequence = torch.tensor([[*prompts[0].tokens, *written, 0]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=sequence, labels=sequence).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    known = Prompt(prompts[0].tokens, "7")
    assert exact_match(model, [known], tokenizer, 48) == 1.0
    assert exact_match(model, [Prompt(prompts[0].tokens, "8")], tokenizer, 48) == 0.0
    # Padding on the left changes no answer.
    longer = Prompt((1, *prompts[0].tokens, 2), "none")
    assert exact_match(model, [known, longer], tokenizer, 48) == 0.5
    assert exact_match(model, [], tokenizer, 48) is None


def test_answers_are_generated_for_verdicts_on_problems_only(make: Make, run: Any) -> None:
    for split in ("test", "validation"):
        found = run(make("hard_switch", "gsm8k_instructions", split=split)).metrics
        assert (found["target_exact_match"] is None) == (split == "validation")
    assert run(make("hard_switch", "shakespeare")).metrics["target_exact_match"] is None


def test_a_pretraining_that_diverges_says_so(store: Store, texts: Path, tmp_path: Path) -> None:
    source = replace(SOURCE, optimizer=OptimizerConfig(1e30), num_warmup_steps=0)
    with pytest.raises(FloatingPointError, match="the pretraining loss is nan at step"):
        pretrain(source, RunContext(source, Store(tmp_path), str(texts)))


def test_weights_of_another_model_are_refused() -> None:
    other = build_model(replace(MODEL, hidden_size=32), seed=0)
    with pytest.raises(ValueError, match=r"weights must be those of this model; .*embed_tokens"):
        set_weights(build_model(MODEL, seed=0), weights_of(other))


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("transformers", lambda: build_model(MODEL, seed=0)),
        ("peft", lambda: add_lora(torch.nn.Linear(1, 1), 2, seed=0)),
        ("tokenizers", lambda: train_tokenizer(["text"], 300)),
    ],
)
def test_a_missing_library_says_which_extra_to_install(
    module: str, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"needs {module}: pip install .segue\[experiments,trl\]"
    ):
        call()


@pytest.mark.gpu
def test_a_run_on_a_gpu_resumes_bitwise(make: Make, store: Store, texts: Path) -> None:
    config = make("smoothing", "gsm8k_instructions")

    def report(done: int, total: int) -> None:
        if done > 3:
            raise Killed

    whole = fine_tune(config, RunContext(config, store, str(texts), device="cuda"))
    with pytest.raises(Killed):
        fine_tune(
            config,
            RunContext(config, store, str(texts), report=report, checkpoint_steps=1, device="cuda"),
        )
    resumed = fine_tune(config, RunContext(config, store, str(texts), device="cuda"))
    store.checkpoint(config).unlink()
    assert digest(resumed) == digest(whole)
