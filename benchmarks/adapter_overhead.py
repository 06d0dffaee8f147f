"""What the Transformers adapter adds to a training step after the ramp, as a ratio to the bare trainer's.

A small Llama, SFT on texts of unequal length, one thread. The arms (the bare ``SFTTrainer`` twice, so
that the machine's own noise shows, and the smoothed one after its ramp) hold a trainer each and take
turns in shuffled order; a turn trains for a few optimizer steps. The house's goal is a ratio of at most
1.02. It counts as missed where the whole 95 % bootstrap interval lies above that.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, verdict

NUM_ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
NUM_STEPS_PER_TURN = 8
GOAL = 1.02
WORDS = [f"w{number}" for number in range(500)]


def make_trainer(folder: Path, smoothed: bool) -> Any:
    """Return a trainer of a fresh model; a smoothed one leaves its ramp at the first step."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    draw = random.Random(0)
    texts = [{"text": " ".join(draw.choices(WORDS, k=draw.randint(8, 64)))} for _ in range(512)]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )
    args = SFTConfig(
        str(folder),
        max_steps=NUM_STEPS_PER_TURN,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        gradient_checkpointing=False,
        logging_steps=4,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
    )
    extra = {"source": texts, "schedule": segue.hard_switch()} if smoothed else {}
    trainer_class: Any = segue.smooth(SFTTrainer) if smoothed else SFTTrainer
    trainer = trainer_class(
        model, args, train_dataset=Dataset.from_list(texts), processing_class=tokenizer, **extra
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> int:
    """Print the ratios; return 1 if the goal was missed."""
    disable_progress_bars()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        arms: dict[str, Callable[[], object]] = {
            name: make_trainer(Path(folder, str(index)), smoothed=index == 2).train
            for index, name in enumerate(("bare", "bare again (noise)", "after the ramp"))
        }
        seconds = interleaved(arms, NUM_ROUNDS)
    bare = seconds.pop("bare")
    step = statistics.median(bare) / NUM_STEPS_PER_TURN
    print(f"{NUM_ROUNDS} rounds of {NUM_STEPS_PER_TURN} optimizer steps of 2 micro-batches")
    print(f"{'bare step':22s} {1000 * step:7.1f} ms of process time")
    missed = False
    for name, values in seconds.items():
        ratio, low, high = ratio_of_medians(values, bare)
        is_ours = name == "after the ramp"
        missed |= is_ours and low > GOAL
        goal = f"goal <= {GOAL:.2f}: " if is_ours else ""
        decision = verdict(low <= GOAL) if ratio <= GOAL or low > GOAL else "within the noise"
        shown = goal + decision if is_ours else ""
        print(f"{name:22s} {ratio:7.3f} x  95 % {low:.3f} to {high:.3f}  {shown}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
