"""Preference tuning (DPO) with a stream of plain text as the source: `python examples/trl_dpo.py`."""

import copy
import os
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import segue

WORDS = ["<pad>", "<eos>", *map(str, range(40))]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def count(seed: int, step: int = 1, length: int = 6) -> str:
    start = random.Random(seed).randrange(12, 28)
    return " ".join(str(start + step * i) for i in range(length))


def preference(seed: int) -> dict:  # steps of two are preferred to steps of one
    first = count(seed, length=1)
    two, one = (count(seed, step, 5).removeprefix(first) for step in (2, 1))
    return {"prompt": first, "chosen": two, "rejected": one}


def fit(trainer_class: type, config_class: type, model, data: list, rate: float, **extra):
    args = config_class(
        tempfile.mkdtemp(), max_steps=100, learning_rate=rate, save_strategy="no",
        use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    extra |= {"train_dataset": Dataset.from_list(data), "processing_class": tokenizer}
    trainer = trainer_class(model, args=args, **extra)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), num_attention_heads=2, **shape))
text = [{"text": count(seed)} for seed in range(256)]
fit(SFTTrainer, SFTConfig, model, text, rate=1e-2)
ids = torch.tensor([tokenizer(count(1000 + i))["input_ids"] for i in range(50)])
ours = {"source": text, "num_smoothing_steps": 0.5}
arms = {"hard switch": (DPOTrainer, {}), "smoothing": (segue.smooth(DPOTrainer), ours)}
for name, (cls, extra) in arms.items():
    tuned, extra["ref_model"] = copy.deepcopy(model), copy.deepcopy(model)
    trainer = fit(cls, DPOConfig, tuned, [preference(i) for i in range(256)], 1e-3, **extra)
    found = trainer.evaluate(Dataset.from_list([preference(1000 + i) for i in range(50)]))
    loss = tuned(input_ids=ids, labels=ids).loss
    print(f"{name}: preferred {found['eval_rewards/accuracies']:.0%}, source loss {loss:.3f}")
