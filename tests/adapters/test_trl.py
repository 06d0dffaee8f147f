"""TRL's trainers with smoothing, under what their users switch on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from torch import Tensor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).parent))
from transformers_tiny import (
    WORDS,
    completions,
    make_model,
    make_tokenizer,
    preferences,
    texts,
    tokenized,
)

import segue
from segue.adapters.transformers import Source
from segue.adapters.transformers.source import pad_examples

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)
disable_progress_bars()
SmoothedSFTTrainer, SmoothedDPOTrainer = segue.smooth(SFTTrainer), segue.smooth(DPOTrainer)
LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
    } | changes


def make_sft(folder: Path, **given: Any) -> Any:
    names = set(SFTConfig.__dataclass_fields__)
    changes = {name: given.pop(name) for name in list(given) if name in names}
    defaults: dict[str, Any] = {
        "model": make_model(),
        "train_dataset": Dataset.from_list(completions(20, seed=2)),
        "processing_class": make_tokenizer(),
        "source": texts(20, seed=1),
        "num_bank_examples": 16,
    }
    if "schedule" not in given:
        defaults["num_smoothing_steps"] = 3
    return SmoothedSFTTrainer(args=SFTConfig(**settings(folder, **changes)), **(defaults | given))


def entries(trainer: Any, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def trained(trainer: Any) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}


def conversations(number: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{WORDS[i % 24]} w1"},
                {"role": "assistant", "content": f"w2 {WORDS[i % 7]}"},
            ]
        }
        for i in range(number)
    ]


# -- what users switch on ------------------------------------------------------------------------

SWITCHED_ON: dict[str, Callable[[], dict[str, Any]]] = {
    "LoRA": lambda: {"peft_config": LORA},
    "gradient checkpointing": lambda: {"gradient_checkpointing": True},  # TRL's default
    "no gradient checkpointing": lambda: {"gradient_checkpointing": False},
    "bf16": lambda: {"bf16": True},
    "packing": lambda: {"packing": True, "max_length": 16},
    "completion-only": lambda: {"completion_only_loss": True},
    "chat": lambda: {
        "train_dataset": Dataset.from_list(conversations(20)),
        "assistant_only_loss": True,
    },
    "dft": lambda: {"loss_type": "dft"},
    "noise": lambda: {"neftune_noise_alpha": 1.0},
}


@pytest.mark.parametrize(
    ("switched_on", "mode"),
    [
        *((name, "mix") for name in SWITCHED_ON if name != "noise"),
        ("gradient checkpointing", "backward"),
        ("bf16", "backward"),
    ],
)
def test_the_source_gradient_is_the_same_with(tmp_path: Path, switched_on: str, mode: str) -> None:
    given = SWITCHED_ON[switched_on]()
    trainer = make_sft(tmp_path, schedule=segue.constant(1.0), max_steps=1, mode=mode, **given)
    batch = pad_examples(next(trainer.replay), padding_id=0)
    trainer.replay.load_state_dict(trainer.replay.state_dict() | {"position": 0})
    before = {name: value.clone() for name, value in trained(trainer).items()}
    trainer.train()
    assert len(entries(trainer, "source_loss")) == 1

    model = make_sft(
        tmp_path, num_smoothing_steps=0, source=None, **SWITCHED_ON[switched_on]()
    ).model
    model.load_state_dict({**model.state_dict(), **before})
    with torch.autocast("cpu", torch.bfloat16, enabled=switched_on == "bf16"):
        logits = model.train()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())
    loss.backward()
    tolerance = 2e-3 if switched_on == "bf16" else 2e-6
    assert entries(trainer, "source_loss") == pytest.approx([loss.item()], abs=tolerance)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_hand = before[name] - 0.1 * parameter.grad
            torch.testing.assert_close(trained(trainer)[name], by_hand, rtol=0, atol=tolerance)


@pytest.mark.parametrize("switched_on", SWITCHED_ON)
def test_the_whole_ramp_runs_with(tmp_path: Path, switched_on: str) -> None:
    trainer = make_sft(tmp_path, **SWITCHED_ON[switched_on]())
    before = {name: value.clone() for name, value in trained(trainer).items()}
    trainer.train()
    assert entries(trainer, "source_weight") == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert any(not torch.equal(before[name], after) for name, after in trained(trainer).items())
    assert trainer.replay.released


@pytest.mark.slow
@pytest.mark.parametrize("trainer_class", ["SFT", "DPO"])
def test_a_compiled_model_is_trained_alike(tmp_path: Path, trainer_class: str) -> None:
    make = make_sft if trainer_class == "SFT" else make_dpo
    weights = []
    for compiled in (False, True):
        torch.compiler.reset()
        given = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        trainer = make(tmp_path, **given)
        trainer.train()
        weights.append(trained(trainer))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-6)


def test_lora_trains_the_adapter_alone_and_resumes_on_the_ramp(tmp_path: Path) -> None:
    undisturbed = make_sft(tmp_path / "a", peft_config=LORA, save_strategy="steps", save_steps=2)
    base = {n: p.clone() for n, p in undisturbed.model.named_parameters() if not p.requires_grad}
    undisturbed.train()
    for name, value in undisturbed.model.named_parameters():
        if name in base:
            assert torch.equal(value, base[name])
    resumed = make_sft(tmp_path / "b", peft_config=LORA)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for name, value in trained(undisturbed).items():
        assert torch.equal(trained(resumed)[name], value)


def test_chat_beside_plain_text_keeps_masks_and_counts_apart(tmp_path: Path) -> None:
    trainer = make_sft(
        tmp_path,
        train_dataset=Dataset.from_list(conversations(20)),
        assistant_only_loss=True,
        source=[{"text": "w1 w2 w3 w4 w5 w6 <eos>"}] * 16,
        num_smoothing_steps=1,
        max_steps=1,
    )
    trainer.train()
    assert entries(trainer, "target_count") == [8 * 3]  # two words and the end of each turn
    assert entries(trainer, "source_count") == [8 * 6]  # every token but the first


# -- DPO -----------------------------------------------------------------------------------------


def make_dpo(folder: Path, **given: Any) -> Any:
    names = set(DPOConfig.__dataclass_fields__)
    changes = {name: given.pop(name) for name in list(given) if name in names}
    defaults: dict[str, Any] = {
        "model": make_model(),
        "ref_model": make_model(seed=5),
        "train_dataset": Dataset.from_list(preferences(20, seed=2)),
        "processing_class": make_tokenizer(),
        "source": texts(20, seed=1),
        "num_bank_examples": 16,
    }
    if "schedule" not in given:
        defaults["num_smoothing_steps"] = 3
    config = DPOConfig(**settings(folder, beta=0.5, **changes))
    return SmoothedDPOTrainer(args=config, **(defaults | given))


def test_dpo_blends_its_own_loss_with_a_stream_of_text(tmp_path: Path) -> None:
    trainer = make_dpo(tmp_path)
    reference = {n: p.clone() for n, p in trainer.ref_model.named_parameters()}
    trainer.train()
    assert entries(trainer, "source_weight") == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert all(3.0 < loss < 4.0 for loss in entries(trainer, "source_loss"))  # near log 29
    assert all(0.3 < loss < 1.2 for loss in entries(trainer, "loss"))  # near log 2
    assert len(entries(trainer, "rewards/margins")) == 4
    for name, value in trainer.ref_model.named_parameters():
        assert torch.equal(value, reference[name])


def test_dpo_with_lora_takes_the_base_model_as_its_reference(tmp_path: Path) -> None:
    trainer = make_dpo(tmp_path, ref_model=None, peft_config=LORA)
    trainer.train()
    assert entries(trainer, "loss")[0] == pytest.approx(0.6931, abs=1e-3)  # the adapter starts at 0
    assert entries(trainer, "source_weight") == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_dpo_with_precomputed_reference_runs(tmp_path: Path) -> None:
    trainer = make_dpo(tmp_path, precompute_ref_log_probs=True)
    trainer.train()
    assert len(entries(trainer, "source_loss")) == 3


def test_dpos_evaluation_is_its_own(tmp_path: Path) -> None:
    held_out = Dataset.from_list(preferences(6, seed=9))
    smoothed = make_dpo(tmp_path, schedule=segue.constant(0.5), eval_dataset=held_out)
    before = smoothed.evaluate()
    plain = make_dpo(tmp_path, num_smoothing_steps=0, source=None, eval_dataset=held_out)
    assert before["eval_loss"] == plain.evaluate()["eval_loss"]
    smoothed.train()
    assert smoothed.smoothing.num_steps == 4
    after = smoothed.evaluate()
    assert smoothed.smoothing.num_steps == 4
    assert set(after) == set(before) | {"epoch"}


def test_preferences_can_be_a_source_once_they_are_text(tmp_path: Path) -> None:
    source = Source(
        preferences(20, seed=4),
        prepare_example=lambda pair: {"prompt": pair["prompt"], "completion": pair["chosen"]},
    )
    trainer = make_sft(tmp_path, source=source, train_dataset=Dataset.from_list(texts(20, seed=3)))
    trainer.train()
    assert len(entries(trainer, "source_loss")) == 3


def test_tokenized_examples_are_taken_as_they_are(tmp_path: Path) -> None:
    by_text = make_sft(tmp_path)
    by_ids = make_sft(tmp_path, source=tokenized(texts(20, seed=1)))
    assert by_ids.replay.num_examples == by_text.replay.num_examples == 16
    by_ids.train()
    assert len(entries(by_ids, "source_loss")) == 3


def test_the_example_prints_both_losses_of_three_models() -> None:
    path = Path(__file__).parents[2] / "examples" / "transformers_sft.py"
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    found = [
        re.fullmatch(r"(.*): target loss (.*), source loss (.*)", line)
        for line in done.stdout.splitlines()
    ]
    losses = {match[1]: (float(match[2]), float(match[3])) for match in found if match}
    assert list(losses) == ["before", "hard switch", "smoothing"]
    for name in ("hard switch", "smoothing"):
        assert losses[name][0] < 0.2 * losses["before"][0]  # learned the target
        assert losses[name][1] > 2 * losses["before"][1]  # and lost some of the source
